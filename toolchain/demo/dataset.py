"""A made detection data set: drawn shapes on busy backgrounds, labelled exactly, the same bytes for the same seed.

It lets the whole job run offline. It shows whether a pruned network still finds things, and says nothing of photographs.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import cv2
import numpy as np

from toolchain import progress
from toolchain.demo.scene import CLASSES, Scene, draw_scene
from toolchain.errors import DataError, UsageError

SPLITS = ("train", "val", "test")
DEFAULT_IMAGES: Mapping[str, int] = MappingProxyType({"train": 240, "val": 60, "test": 80})
MIN_IMGSZ = 32
JPEG_QUALITY = 92


def make_dataset(folder: Path, *, images: Mapping[str, int] = DEFAULT_IMAGES, imgsz: int = 160, seed: int = 0) -> Path:
    """Draw a YOLO data set into `folder`.

    Every picture has its own random stream, keyed by (seed, split, number): splits share no picture, and a larger set begins
    with the pictures of a smaller one.

    Args:
        folder: gets `data.yaml`, `images/SPLIT/*.jpg` and `labels/SPLIT/*.txt`; must not hold a data set yet.
        images: pictures per split; `train` and `val` are needed, `test` may be left out.
        imgsz: side of the square pictures, px.
        seed: 0 or more.

    Returns:
        path of `data.yaml`, which names its folders relative to itself: the set may be moved.

    Raises:
        UsageError: a split that does not exist or is empty, a size below 32 px, a negative seed.
        DataError: `folder` holds a data set already, or a picture cannot be written.
    """
    _check(folder, images, imgsz, seed)
    for split in images:
        (folder / "images" / split).mkdir(parents=True)
        (folder / "labels" / split).mkdir(parents=True)
    with progress.task("Drawing the data set", total=sum(images.values()), unit="images") as task:
        for split, count in images.items():
            for number in range(count):
                scene = draw_scene(picture_rng(seed, split, number), imgsz)
                _write(folder, split, f"{split}_{number:05d}", scene)
                task.advance()
    return _write_yaml(folder, images)


def picture_rng(seed: int, split: str, number: int) -> np.random.Generator:
    """The random stream of one picture."""
    return np.random.default_rng((seed, SPLITS.index(split), number))


def label_lines(scene: Scene) -> list[str]:
    """YOLO rows `class cx cy w h`, as fractions of the picture, one per visible shape."""
    height, width = scene.owner.shape
    lines = []
    for label, (x0, y0, x1, y1) in zip(scene.labels, scene.boxes, strict=True):
        cx, cy, w, h = (x0 + x1) / 2 / width, (y0 + y1) / 2 / height, (x1 - x0) / width, (y1 - y0) / height
        lines.append(f"{label} {cx:.6f} {cy:.6f} {w:.6f} {h:.6f}")
    return lines


def _check(folder: Path, images: Mapping[str, int], imgsz: int, seed: int) -> None:
    if wrong := {split: count for split, count in images.items() if split not in SPLITS or count < 1}:
        raise UsageError("cannot draw these splits", got=wrong, fix=f"one or more pictures in each of {', '.join(SPLITS)}")
    if missing := {"train", "val"} - set(images):
        raise UsageError("a data set needs the splits train and val", got=f"without {', '.join(sorted(missing))}")
    if imgsz < MIN_IMGSZ:
        raise UsageError("pictures this small show no shapes", got=f"imgsz={imgsz}", fix=f"at least {MIN_IMGSZ}")
    if seed < 0:
        raise UsageError("a seed is 0 or more", got=seed)
    if (folder / "images").exists() or (folder / "data.yaml").exists():
        raise DataError("the folder holds a data set already", got=str(folder), fix="give a new folder")


def _write(folder: Path, split: str, name: str, scene: Scene) -> None:
    path = folder / "images" / split / f"{name}.jpg"
    done, data = cv2.imencode(".jpg", scene.image, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    if not done:
        raise DataError("a picture could not be encoded", got=str(path))
    path.write_bytes(data.tobytes())
    (folder / "labels" / split / f"{name}.txt").write_text("".join(f"{line}\n" for line in label_lines(scene)))


def _write_yaml(folder: Path, images: Mapping[str, int]) -> Path:
    lines = [f"{split}: images/{split}" for split in images] + ["names:"]
    lines += [f"  {number}: {name}" for number, name in enumerate(CLASSES)]
    path = folder / "data.yaml"
    path.write_text("\n".join(lines) + "\n")
    return path
