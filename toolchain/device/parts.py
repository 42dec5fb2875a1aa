"""The parts of a long inference on disk, whole after each, so that a lost link costs at most the part under way."""

from __future__ import annotations

import shutil
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from toolchain.device.engine_messages import InferAnswer
from toolchain.errors import DataError, ProtocolError, RunFolderError
from toolchain.predictions import Predictions
from toolchain.stage import read_json, write_json

IDENTITY, PENDING = "identity.json", "pending.json"
FIRST_IMAGES, LEAST_IMAGES, MOST_IMAGES = 64, 8, 4096
PART_S = 20.0  # so much work is lost at most


@dataclass
class Parts:
    """What has come back so far, in order.

    Attributes:
        images: pictures that are done.
    """

    out_npz: Path
    folder: Path
    done: list[tuple[InferAnswer, Predictions]] = field(default_factory=list)

    @property
    def images(self) -> int:
        return sum(answer.images for answer, _ in self.done)

    @staticmethod
    def open(out_npz: Path, identity: dict[str, Any]) -> Parts:
        """The parts of an earlier call with the same identity; those of another are removed."""
        parts = Parts(out_npz, out_npz.with_name(f".{out_npz.name}.parts"))
        try:
            same = read_json(parts.folder / IDENTITY) == identity
        except RunFolderError:
            same = False
        if not same:
            shutil.rmtree(parts.folder, ignore_errors=True)
            parts.folder.mkdir(parents=True)
            write_json(parts.folder / IDENTITY, identity)
        while (path := parts._answer()).exists():
            try:
                answer = InferAnswer.model_validate(read_json(path))
                parts.done.append((answer, _load(parts.file(answer), answer.images)))
            except (RunFolderError, DataError, ProtocolError, ValueError):
                path.unlink()  # damaged: it is made again
        return parts

    def next_size(self) -> int:
        """Pictures of the next part: about PART_S of work."""
        if not self.done:
            return FIRST_IMAGES
        rate = self.images / max(1e-6, sum(answer.seconds for answer, _ in self.done))
        return int(min(max(LEAST_IMAGES, rate * PART_S), MOST_IMAGES)) // LEAST_IMAGES * LEAST_IMAGES

    def expect(self, answer: InferAnswer) -> None:
        """A part is ready on the device, and only needs to be fetched."""
        write_json(self.folder / PENDING, {"start": self.images, **answer.model_dump()})

    def pending(self) -> InferAnswer | None:
        """The part that is ready on the device, if the link was lost before it was here."""
        try:
            data = read_json(self.folder / PENDING)
            return InferAnswer.model_validate(data) if data["start"] == self.images else None
        except (RunFolderError, ValueError, KeyError, TypeError):
            return None

    def forget(self) -> None:
        """The device no longer has the pending part."""
        (self.folder / PENDING).unlink(missing_ok=True)

    def file(self, answer: InferAnswer) -> Path:
        """Where a part belongs."""
        return self.folder / f"{answer.sha256}.npz"

    def add(self, answer: InferAnswer) -> None:
        """Keep the part that was fetched.

        Raises:
            ProtocolError, DataError: it is not what it must be.
        """
        predictions = _load(self.file(answer), answer.images)
        write_json(self._answer(), answer.model_dump())
        self.done.append((answer, predictions))
        self.forget()

    def finish(self) -> tuple[Predictions, list[InferAnswer]]:
        """Write all parts as one file and remove them."""
        found = [predictions for _, predictions in self.done]
        whole = Predictions(np.concatenate([one.rows for one in found]), np.concatenate([one.counts for one in found]))
        partial = self.folder / "whole.npz"
        whole.save(partial)
        partial.replace(self.out_npz)
        shutil.rmtree(self.folder)
        return whole, [answer for answer, _ in self.done]

    def _answer(self) -> Path:
        return self.folder / f"{self.images:08d}.json"


def _load(path: Path, images: int) -> Predictions:
    """A part, which came from a device: stored without compression, so it holds no more than its size says."""
    try:
        with zipfile.ZipFile(path) as archive:
            packed = [entry.filename for entry in archive.infolist() if entry.compress_type != zipfile.ZIP_STORED]
    except (OSError, zipfile.BadZipFile) as error:
        raise DataError("not a predictions file", got=f"{path}: {error}") from error
    if packed:
        raise DataError("predictions of a device must not be compressed", got=str(path))
    predictions = Predictions.load(path)
    if not images or len(predictions.counts) != images:
        got = f"{len(predictions.counts)}, sent {images}"
        raise ProtocolError("the device answered for another number of pictures", got=got)
    if not np.isfinite(predictions.rows).all():
        raise DataError("predictions hold NaN or infinite values", got=str(path))
    return predictions
