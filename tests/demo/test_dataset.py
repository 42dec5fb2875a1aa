"""The made data set: same seed same bytes, exact boxes, splits that share nothing."""

from __future__ import annotations

import hashlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from toolchain.demo.dataset import label_lines, make_dataset, picture_rng
from toolchain.demo.scene import CLASSES, MIN_VISIBLE, background, draw_scene
from toolchain.errors import DataError, UsageError

SMALL = {"train": 4, "val": 3, "test": 2}


def contents(folder: Path) -> dict[str, str]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_same_seed_gives_the_same_bytes_and_another_seed_does_not(tmp_path: Path) -> None:
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        make_dataset(tmp_path / name, images=SMALL, imgsz=64, seed=seed)
    first, second, other = (contents(tmp_path / name) for name in "abc")
    assert first == second
    assert len(first) == 1 + 2 * sum(SMALL.values())
    assert all(other[name] != digest for name, digest in first.items() if name.endswith(".jpg"))


def test_splits_share_no_picture(tmp_path: Path) -> None:
    make_dataset(tmp_path, images=SMALL, imgsz=64)
    digests = [digest for name, digest in contents(tmp_path).items() if name.endswith(".jpg")]
    assert len(digests) == len(set(digests)) == sum(SMALL.values())


def test_a_larger_set_begins_with_the_smaller_one(tmp_path: Path) -> None:
    make_dataset(tmp_path / "small", images={"train": 2, "val": 1}, imgsz=64)
    make_dataset(tmp_path / "large", images={"train": 4, "val": 1}, imgsz=64)
    small, large = contents(tmp_path / "small"), contents(tmp_path / "large")
    assert small.items() <= large.items()


def test_data_yaml_names_the_splits_relative_to_itself(tmp_path: Path) -> None:
    data = yaml.safe_load(make_dataset(tmp_path, images=SMALL, imgsz=64).read_text())
    assert data["names"] == dict(enumerate(CLASSES))
    assert len(CLASSES) >= 3
    for split, count in SMALL.items():
        assert len(list((tmp_path / data[split]).glob("*.jpg"))) == count
        assert len(list((tmp_path / "labels" / split).glob("*.txt"))) == count


def test_pictures_decode_to_the_asked_size_and_labels_read_back(tmp_path: Path) -> None:
    make_dataset(tmp_path, images={"train": 3, "val": 1}, imgsz=96, seed=5)
    for number in range(3):
        path = tmp_path / "images" / "train" / f"train_{number:05d}.jpg"
        scene = draw_scene(picture_rng(5, "train", number), 96)
        image = cv2.imread(str(path))
        assert image is not None
        assert image.shape == (96, 96, 3)
        drawn, stored = (cv2.GaussianBlur(picture.astype(np.float32), (0, 0), 2) for picture in (scene.image, image))
        assert np.abs(drawn - stored).mean() < 4  # JPEG keeps all but the finest colour noise
        rows = (tmp_path / "labels" / "train" / f"train_{number:05d}.txt").read_text().splitlines()
        assert rows == label_lines(scene)
        for row, box in zip(rows, scene.boxes, strict=True):
            cx, cy, w, h = (float(value) * 96 for value in row.split()[1:])
            np.testing.assert_allclose((cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2), box, atol=1e-3)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32), size=st.sampled_from([64, 97, 160]))
def test_boxes_bound_the_pixels_of_their_shape(seed: int, size: int) -> None:
    scene = draw_scene(np.random.default_rng(seed), size)
    assert 1 <= len(scene.labels) == len(scene.boxes) == scene.owner.max() + 1
    for number, (x0, y0, x1, y1) in enumerate(scene.boxes):
        mine = scene.owner == number
        assert 0 <= x0 < x1 <= size
        assert 0 <= y0 < y1 <= size
        assert mine[y0:y1, x0:x1].sum() == mine.sum()  # nothing outside
        assert mine[y0, x0:x1].any() and mine[y1 - 1, x0:x1].any()  # noqa: PT018  touches all four sides
        assert mine[y0:y1, x0].any() and mine[y0:y1, x1 - 1].any()  # noqa: PT018


@pytest.mark.parametrize("seed", range(8))
def test_boxes_bound_what_was_drawn_over_the_background(seed: int) -> None:
    """The redraw: the same background without shapes differs only where, and everywhere where, a box says a shape is."""
    scene = draw_scene(np.random.default_rng(seed), 160)
    plain = background(np.random.default_rng(seed), 160)
    changed = np.abs(scene.clean - plain).max(axis=2) > 40
    boxed = np.zeros((160, 160), dtype=bool)
    for x0, y0, x1, y1 in scene.boxes:
        boxed[max(0, y0 - 1) : y1 + 1, max(0, x0 - 1) : x1 + 1] = True
        assert changed[y0:y1, x0:x1].any()
    assert not (changed & ~boxed).any()
    assert (changed & (scene.owner >= 0)).sum() > 0.8 * (scene.owner >= 0).sum()


def test_overlap_happens_and_stays_partial() -> None:
    scenes = [draw_scene(np.random.default_rng(seed), 160) for seed in range(40)]
    pairs = 0
    for scene in scenes:
        boxes = np.array(scene.boxes)
        for i in range(len(boxes)):
            low, high = np.maximum(boxes[i, :2], boxes[i + 1 :, :2]), np.minimum(boxes[i, 2:], boxes[i + 1 :, 2:])
            pairs += int((high > low).all(axis=1).sum())
    assert pairs >= 10
    assert MIN_VISIBLE > 0.5
    assert {label for scene in scenes for label in scene.labels} == set(range(len(CLASSES)))


def test_refuses_a_folder_that_holds_a_data_set(tmp_path: Path) -> None:
    make_dataset(tmp_path, images={"train": 1, "val": 1}, imgsz=64)
    before = contents(tmp_path)
    with pytest.raises(DataError, match="already"):
        make_dataset(tmp_path, images={"train": 1, "val": 1}, imgsz=64, seed=9)
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    ("images", "imgsz", "seed", "text"),
    [
        ({"train": 2, "valid": 1}, 64, 0, "valid"),
        ({"train": 0, "val": 1}, 64, 0, "cannot draw"),
        ({"train": 1}, 64, 0, "without val"),
        ({"train": 1, "val": 1}, 16, 0, "imgsz=16"),
        ({"train": 1, "val": 1}, 64, -1, "seed"),
    ],
)
def test_refuses_what_cannot_be_drawn(tmp_path: Path, images: dict[str, int], imgsz: int, seed: int, text: str) -> None:
    with pytest.raises(UsageError, match=text):
        make_dataset(tmp_path / "set", images=images, imgsz=imgsz, seed=seed)
    assert not (tmp_path / "set").exists()
