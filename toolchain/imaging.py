"""Images in, network input out: the one letterbox that evaluation, calibration, parity checks and devices share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from toolchain.errors import DataError

PAD_VALUE = 114  # the grey that YOLO networks see around a picture in training
Image = NDArray[np.uint8]


@dataclass(frozen=True)
class Letterbox:
    """How a picture was placed: `network = original * scale + (left, top)`, all in pixels."""

    scale: float
    left: int
    top: int
    height: int
    width: int


def read_image(path: Path) -> Image:
    """Picture as (height, width, 3) uint8 BGR.

    Raises:
        DataError: the file is missing, empty or not a picture.
    """
    if not path.is_file():
        raise DataError("image not found", got=path, fix="check the paths in the data YAML")
    raw = np.fromfile(path, dtype=np.uint8)
    image = cv2.imdecode(raw, cv2.IMREAD_COLOR) if raw.size else None
    if image is None:
        raise DataError("not a readable image", got=f"{path} ({raw.size} bytes)", fix="remove or replace the file")
    return np.asarray(image, dtype=np.uint8)


def letterbox(image: Image, imgsz: int) -> tuple[Image, Letterbox]:
    """Scale the longer side to `imgsz`, keep the aspect, centre on grey.

    Args:
        image: (height, width, 3) uint8.
        imgsz: side of the square network input, pixels.

    Returns:
        (imgsz, imgsz, 3) uint8 and where the picture lies in it.
    """
    height, width = image.shape[:2]
    scale = imgsz / max(height, width)
    new_w, new_h = (min(max(round(side * scale), 1), imgsz) for side in (width, height))
    if (new_h, new_w) != (height, width):
        image = np.asarray(cv2.resize(image, (new_w, new_h), interpolation=cv2.INTER_LINEAR), dtype=np.uint8)
    left, top = (imgsz - new_w) // 2, (imgsz - new_h) // 2
    canvas = np.full((imgsz, imgsz, 3), PAD_VALUE, dtype=np.uint8)
    canvas[top : top + new_h, left : left + new_w] = image
    return canvas, Letterbox(scale, left, top, height, width)


def network_input(image: Image, imgsz: int) -> tuple[Image, Letterbox]:
    """BGR picture -> (3, imgsz, imgsz) uint8 RGB, not yet divided by 255."""
    canvas, placed = letterbox(image, imgsz)
    return np.ascontiguousarray(canvas[..., ::-1].transpose(2, 0, 1)), placed


def float_batches(paths: Sequence[Path], imgsz: int, batch: int = 1) -> Iterator[NDArray[np.float32]]:
    """Stream (n, 3, imgsz, imgsz) float32 batches in 0..1, n <= batch, holding one batch at a time."""
    for start in range(0, len(paths), batch):
        chunk = [network_input(read_image(path), imgsz)[0] for path in paths[start : start + batch]]
        yield np.stack(chunk).astype(np.float32) / np.float32(255)


def prepare_set(paths: Sequence[Path], imgsz: int, out: Path) -> list[Letterbox]:
    """Write all pictures as one (n, 3, imgsz, imgsz) uint8 `.npy`, one picture in memory at a time."""
    array = np.lib.format.open_memmap(out, mode="w+", dtype=np.uint8, shape=(len(paths), 3, imgsz, imgsz))
    placed = []
    for index, path in enumerate(paths):
        array[index], box = network_input(read_image(path), imgsz)
        placed.append(box)
    array.flush()
    return placed
