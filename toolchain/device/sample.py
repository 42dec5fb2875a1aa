"""The picture that a bundle carries, so that it can be tried wherever it goes."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from toolchain.imaging import Image, read_image

LARGEST = 1.5  # times the network's input: the trial still scales the picture, and a card is not filled by a photograph


def sample_picture(imgsz: int, path: Path | None = None) -> bytes:
    """A binary PPM, which any viewer opens and numpy alone can read; without a file, a drawn pattern.

    Raises:
        DataError: the file is missing or not a picture.
    """
    return _ppm(_pattern(imgsz) if path is None else _shrunk(read_image(path), imgsz))


def _shrunk(image: Image, imgsz: int) -> Image:
    """At most half as large again as the network's input, so that the trial still scales it and a card is not filled."""
    factor = 1.5 * imgsz / max(image.shape[:2])
    if factor >= 1:
        return image
    return np.asarray(cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA), dtype=np.uint8)


def _pattern(imgsz: int) -> Image:
    """Soft blots of all colours, the same every time; wider than high."""
    cells = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return np.asarray(cv2.resize(cells, (imgsz * 5 // 4, imgsz), interpolation=cv2.INTER_CUBIC), dtype=np.uint8)


def _ppm(bgr: Image) -> bytes:
    """Binary PPM of a BGR picture: any viewer opens it, and numpy alone can read it."""
    height, width = bgr.shape[:2]
    return b"P6\n%d %d\n255\n" % (width, height) + np.ascontiguousarray(bgr[..., ::-1]).tobytes()
