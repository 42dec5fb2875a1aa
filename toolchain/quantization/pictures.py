"""Which pictures calibrate: drawn with a seed, known by their contents, never silently those that accuracy is judged on."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from toolchain import progress
from toolchain.errors import QuantizationError
from toolchain.stage import file_sha256

FEW_IMAGES = 100
HELD_OUT = 256  # most training pictures set aside to compare recipes and layers on
HELD_OUT_SHARE = 4  # and at most one in so many
LEAST_TO_SHARE = 8  # training pictures below which nothing can be set aside


@dataclass(frozen=True)
class Pictures:
    """Pictures in the order they are read in."""

    files: tuple[Path, ...]

    @cached_property
    def hashes(self) -> tuple[str, ...]:
        """SHA-256 of each file."""
        return tuple(file_sha256(file) for file in self.files)

    @property
    def sha256(self) -> str:
        """Of all contents, in order; names do not matter."""
        return hashlib.sha256("\n".join(self.hashes).encode()).hexdigest()

    def some(self, count: int) -> list[Path]:
        """At most `count` of them, spread evenly."""
        return list(self.files[:: max(1, len(self.files) // count)][:count])

    def to_json(self) -> list[dict[str, str]]:
        """Name and hash of each."""
        return [{"file": str(file), "sha256": sha256} for file, sha256 in zip(self.files, self.hashes, strict=True)]


def draw(images: Sequence[Path], count: int, seed: int) -> list[Path]:
    """At most `count` pictures, the same for the same seed and set, whatever order they are listed in.

    Raises:
        QuantizationError: there are none.
    """
    if not images:
        raise QuantizationError("no calibration pictures", got=0, fix="point `data` at a data set with training images")
    ordered = sorted(set(images))
    return sorted(random.Random(seed).sample(ordered, min(count, len(ordered))))


def set_aside(images: Sequence[Path], seed: int) -> tuple[list[Path], list[Path]]:
    """Training pictures as (to calibrate on, to compare recipes and layers on), without a picture in common.

    Raises:
        QuantizationError: too few for both.
    """
    count = min(HELD_OUT, len(set(images)) // HELD_OUT_SHARE)
    if len(set(images)) < LEAST_TO_SHARE:
        got = f"{len(set(images))} training pictures, at least {LEAST_TO_SHARE} are needed"
        fix = "name one recipe, without --mixed, or add training pictures"
        raise QuantizationError("too few training pictures to compare recipes or layers on some of them", got=got, fix=fix)
    held_out = draw(images, count, seed)
    return sorted(set(images) - set(held_out)), held_out


def few_images(count: int) -> list[str]:
    """Warning, also shown to the user, when ranges rest on few pictures."""
    if count >= FEW_IMAGES:
        return []
    return [warn(f"calibrated on {count} pictures only; ranges are steadier with {FEW_IMAGES} or more")]


def also_judged_on(used: Sequence[Path], judged: Sequence[Path], split: str) -> list[str]:
    """Warning, also shown to the user, when accuracy is judged on pictures that calibrated."""
    both = {path.resolve() for path in used} & {path.resolve() for path in judged}
    if not both:
        return []
    return [warn(f"{len(both)} of {len(used)} calibration pictures are also in {split!r}: its mAP flatters the INT8 model")]


def warn(text: str) -> str:
    """Show it, and hand it on for the record."""
    progress.note(f"  warning: {text}")
    return text
