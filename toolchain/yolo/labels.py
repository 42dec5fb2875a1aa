"""Label files and pictures of a split, read and checked."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from toolchain import imaging, progress
from toolchain.errors import DataError

if TYPE_CHECKING:
    from toolchain.yolo.dataset import Dataset

TOLERANCE = 0.01  # how far outside 0..1 a coordinate may lie; ultralytics allows the same
SHOWN = 5  # problems printed in full; the rest is counted

Labels = NDArray[np.float32]


def read_labels(dataset: Dataset, split: str) -> list[Labels]:
    """Boxes of every picture of a split: (k, 5) float32 of class, centre x, centre y, width, height, the last four 0..1.

    A picture without a label file has no objects. Polygon rows (class x1 y1 x2 y2 ...) become their bounding boxes, repeated
    rows count once: both as ultralytics reads them.

    Raises:
        DataError: rows that are malformed, of an unknown class or out of the picture; how many, and the first few.
    """
    problems: list[str] = []
    labels = [_parse(dataset.label_path(image), len(dataset.names), problems) for image in dataset.images(split)]
    if problems:
        fix = "a row is: class-id x-centre y-centre width height, as fractions of the picture"
        raise DataError(f"{len(problems)} label rows of split {split!r} are wrong", got=_first(problems), fix=fix)
    return labels


def _first(problems: list[str]) -> str:
    more = [f"and {len(problems) - SHOWN} more"] if len(problems) > SHOWN else []
    return "\n       ".join(problems[:SHOWN] + more)


def _parse(path: Path, classes: int, problems: list[str]) -> Labels:
    rows: list[tuple[float, ...]] = []
    text = path.read_text(encoding="utf-8-sig", errors="replace") if path.is_file() else ""
    lines = [(number, line.split()) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    for number, columns in lines:
        try:
            rows.append(_row(columns, classes))
        except ValueError as error:
            problems.append(f"{path}:{number}: {error}")
    if len({len(columns) == 5 for _, columns in lines}) > 1:
        problems.append(f"{path}: boxes and polygons in one file; ultralytics would leave the picture out of training")
    return np.unique(np.array(rows, dtype=np.float32), axis=0) if rows else np.zeros((0, 5), dtype=np.float32)


def _row(fields: list[str], classes: int) -> tuple[float, ...]:
    """One label row as a box.

    Raises:
        ValueError: saying what is wrong with it.
    """
    if len(fields) != 5 and (len(fields) < 7 or len(fields) % 2 == 0):
        raise ValueError(f"{len(fields)} columns, expected 5 (or a polygon: 1 + two per point)")
    identity, *points = (float(value) for value in fields)
    if not (identity.is_integer() and 0 <= identity < classes):
        raise ValueError(f"class id {fields[0]} is not in 0..{classes - 1}")
    if not all(-TOLERANCE <= value <= 1 + TOLERANCE for value in points):
        raise ValueError(f"coordinates outside 0..1: {' '.join(fields[1:5])}")
    if len(points) > 4:
        xs, ys = points[0::2], points[1::2]
        points = [(min(xs) + max(xs)) / 2, (min(ys) + max(ys)) / 2, max(xs) - min(xs), max(ys) - min(ys)]
    if min(points[2:]) < 0:
        raise ValueError(f"negative width or height: {' '.join(fields[1:5])}")
    return (identity, *points)


def check_images(dataset: Dataset, split: str) -> None:
    """Open every picture of a split far enough to see that it is one (header, not pixels).

    Raises:
        DataError: how many are not readable, and the first few.
    """
    images, problems = dataset.images(split), []
    with progress.task("Checking images", total=len(images), unit="images") as task:
        for image in images:
            if not _has_picture_header(image):  # decoding has the last word: OpenCV reads a few formats more
                try:
                    imaging.read_image(image)
                except DataError as error:
                    problems.append(str(error.got))
            task.advance()
    if problems:
        got = _first(problems)
        raise DataError(f"{len(problems)} pictures of split {split!r} are not readable", got=got, fix="remove or replace them")


def _has_picture_header(image: Path) -> bool:
    from PIL import Image

    try:
        with Image.open(image) as picture:
            picture.verify()
    except (OSError, SyntaxError, ValueError, ImportError):  # ultralytics, once imported, makes PIL ask for a plugin
        return False
    return True
