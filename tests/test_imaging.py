"""The one letterbox: nothing is cut off, nothing is stretched, and where a picture lies is told exactly."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from toolchain.errors import DataError
from toolchain.imaging import PAD_VALUE, float_batches, letterbox, network_input, prepare_set, read_image


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 100, (height, width, 3), dtype=np.uint8)  # below the grey of the border


@settings(max_examples=60, deadline=None)
@given(height=st.integers(1, 300), width=st.integers(1, 300), imgsz=st.sampled_from([32, 64, 96]))
def test_the_picture_lies_where_the_letterbox_says(height: int, width: int, imgsz: int) -> None:
    assume(2 * imgsz * min(height, width) > max(height, width))  # at least half a pixel; below, see the next test
    canvas, box = letterbox(picture(height, width), imgsz)
    assert canvas.shape == (imgsz, imgsz, 3)
    assert canvas.dtype == np.uint8
    assert (box.height, box.width) == (height, width)
    wide, high = min(round(width * box.scale), imgsz), min(round(height * box.scale), imgsz)
    assert imgsz in (wide, high)
    mask = np.zeros((imgsz, imgsz), bool)
    mask[box.top : box.top + high, box.left : box.left + wide] = True
    assert (canvas[~mask] == PAD_VALUE).all()
    assert (canvas[mask] < PAD_VALUE).all()
    assert abs((imgsz - wide - box.left) - box.left) <= 1  # centred
    assert abs((imgsz - high - box.top) - box.top) <= 1


def test_a_picture_thinner_than_a_pixel_keeps_one() -> None:
    canvas, _ = letterbox(picture(1, 100), 32)
    assert (canvas < PAD_VALUE).any(axis=2).sum() == 32


@settings(max_examples=30, deadline=None)
@given(x=st.integers(20, 170), y=st.integers(20, 70), imgsz=st.sampled_from([64, 128, 320]))
def test_a_point_moves_as_the_letterbox_says(x: int, y: int, imgsz: int) -> None:
    image = np.zeros((100, 200, 3), np.uint8)
    cv2.rectangle(image, (x - 4, y - 4), (x + 4, y + 4), (255, 255, 255), -1)
    canvas, box = letterbox(image, imgsz)
    ys, xs = np.nonzero(canvas[..., 0] > 128)
    assert xs.mean() + 0.5 == pytest.approx((x + 0.5) * box.scale + box.left, abs=0.6)
    assert ys.mean() + 0.5 == pytest.approx((y + 0.5) * box.scale + box.top, abs=0.6)


def test_a_picture_of_the_right_size_is_untouched() -> None:
    image = picture(64, 64)
    canvas, box = letterbox(image, 64)
    assert np.array_equal(canvas, image)
    assert (box.scale, box.left, box.top) == (1, 0, 0)


def test_the_network_sees_rgb_planes() -> None:
    image = np.zeros((8, 8, 3), np.uint8)
    image[..., 0] = 10  # blue in a picture read by OpenCV
    planes, _ = network_input(image, 8)
    assert planes.shape == (3, 8, 8)
    assert planes.flags["C_CONTIGUOUS"]
    assert [int(plane.max()) for plane in planes] == [0, 0, 10]


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / f"{number}.png" for number in range(5)]
    for number, path in enumerate(paths):
        cv2.imwrite(str(path), picture(20 + number, 30, seed=number))
    return paths


@pytest.mark.parametrize("batch", [1, 2, 5, 9])
def test_batches_and_the_prepared_set_hold_the_same_pictures(files: list[Path], tmp_path: Path, batch: int) -> None:
    boxes = prepare_set(files, 32, tmp_path / "set.npy")
    stored = np.load(tmp_path / "set.npy")
    batches = list(float_batches(files, 32, batch))
    assert [len(chunk) for chunk in batches[:-1]] == [batch] * (len(batches) - 1)
    streamed = np.concatenate(batches)
    assert streamed.dtype == np.float32
    assert (stored.dtype, stored.shape, len(boxes)) == (np.uint8, (5, 3, 32, 32), 5)
    assert np.array_equal(stored.astype(np.float32) / np.float32(255), streamed)
    assert np.array_equal(stored[3], network_input(read_image(files[3]), 32)[0])


def test_a_grey_picture_becomes_three_planes(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "grey.png"), np.full((5, 6), 7, np.uint8))
    assert read_image(tmp_path / "grey.png").shape == (5, 6, 3)


def test_a_path_beyond_ascii_is_read(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), picture(4, 5))
    path = (tmp_path / "a.png").rename(tmp_path / "münze-図.png")
    assert read_image(path).shape == (4, 5, 3)


@pytest.mark.parametrize(("content", "said"), [(None, "not found"), (b"", "not a readable"), (b"text", "not a readable")])
def test_unreadable_pictures_are_named(tmp_path: Path, content: bytes | None, said: str) -> None:
    path = tmp_path / "bad.jpg"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=said) as raised:
        read_image(path)
    assert str(path) in str(raised.value)
