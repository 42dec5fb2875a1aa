"""Calibration tables: the range of every tensor with all that it depends on, kept so that nothing is calibrated twice."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from toolchain.errors import QuantizationError
from toolchain.imaging import PAD_VALUE
from toolchain.quantization.ranges import Range
from toolchain.resources import cache_dir
from toolchain.stage import write_json

FORMAT = 1  # of the file, and of how ranges are found: a change of either makes older tables unfit


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Frame(Part):
    """How pictures become the network's input: scaled by the longer side to `imgsz` pixels, the rest filled with `pad`."""

    imgsz: int
    pad: int = PAD_VALUE


class Picture(Part):
    file: str
    sha256: str


class Origin(Part):
    """All that the ranges depend on.

    Attributes:
        model_sha256: of the float ONNX file.
        images_sha256: of the pictures' contents, in order.
        method, percentile: of the recipe.
        tensors_sha256: of which tensors have a range, and which of them are clipped for the SiLU behind them.
    """

    format: int = FORMAT
    model_sha256: str
    images_sha256: str
    method: str
    percentile: float | None
    letterbox: Frame
    tensors_sha256: str

    @property
    def key(self) -> str:
        """Name of the table in the cache."""
        return hashlib.sha256(json.dumps(self.model_dump(), sort_keys=True).encode()).hexdigest()


class Table(Part):
    """Ranges with their origin.

    Attributes:
        ranges: tensor -> (low, high), low <= 0 <= high.
        images: the pictures they were found on.
    """

    origin: Origin
    images: list[Picture]
    ranges: dict[str, tuple[float, float]] = Field(min_length=1)

    @model_validator(mode="after")
    def _finite(self) -> Table:
        for name, (low, high) in self.ranges.items():
            if not (math.isfinite(low) and math.isfinite(high) and low <= 0 <= high):
                raise ValueError(f"the range of {name} is {low}..{high}: it must hold zero and end")
        return self


def tensors_sha256(tensors: Iterable[str], before_silu: Iterable[str]) -> str:
    """Of the two sets."""
    return hashlib.sha256(json.dumps([sorted(tensors), sorted(before_silu)]).encode()).hexdigest()


def load_table(path: Path) -> Table:
    """Read and check a file that may have come from anywhere.

    Raises:
        QuantizationError: not a calibration table, or one of another format.
    """
    try:
        data: Any = json.loads(path.read_bytes())
        table = Table.model_validate(data["table"] if isinstance(data, dict) and "table" in data else data)
    except (OSError, ValueError, ValidationError) as error:
        said = f"{error.errors()[0]['loc']}: {error.errors()[0]['msg']}" if isinstance(error, ValidationError) else str(error)
        fix = "give the calibration.json that `toolchain quantize` wrote"
        raise QuantizationError("not a calibration table", got=f"{path}: {said}", fix=fix) from error
    if table.origin.format != FORMAT:
        got = f"{path}: format {table.origin.format}, here {FORMAT}"
        raise QuantizationError("the calibration table was made by another version", got=got, fix="calibrate again")
    return table


def check_fits(table: Table, origin: Origin) -> None:
    """Refuse a table that is not for this graph at this size; method and pictures are the table's own.

    Raises:
        QuantizationError: naming what differs.
    """
    have, want = table.origin, origin
    fix = "calibrate this model: leave --calibration out"
    if have.model_sha256 != want.model_sha256:
        got = f"made for the model {have.model_sha256[:12]}, this one is {want.model_sha256[:12]}"
        raise QuantizationError("the calibration table is of another model", got=got, fix=fix)
    if have.letterbox != want.letterbox:
        got = f"{have.letterbox}, asked for {want.letterbox}"
        raise QuantizationError("the calibration table is for another size of picture", got=got, fix=fix)
    if have.tensors_sha256 != want.tensors_sha256:
        got = f"{len(table.ranges)} tensors"
        raise QuantizationError("the calibration table is for another runtime: other tensors have ranges", got=got, fix=fix)


def find(origin: Origin) -> Table | None:
    """What was calibrated before in just this way; a damaged file counts as none."""
    path = _place(origin)
    if not path.is_file():
        return None
    try:
        table = load_table(path)
    except QuantizationError:
        return None
    return table if table.origin == origin else None


def keep(table: Table) -> None:
    """Put it where `find` looks: $EDGE_CACHE/calibration, else in the user's cache."""
    write_json(_place(table.origin), table.model_dump())


def make(origin: Origin, images: list[dict[str, str]], ranges: dict[str, Range]) -> Table:
    """A table of fresh ranges."""
    return Table(origin=origin, images=[Picture(**image) for image in images], ranges=ranges)


def _place(origin: Origin) -> Path:
    return cache_dir("calibration") / f"{origin.key[:32]}.json"
