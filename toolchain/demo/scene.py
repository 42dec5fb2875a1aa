"""One drawn picture: a busy background, shapes that may overlap, then blur and sensor noise."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

CLASSES = ("disc", "triangle", "star")
MAX_SHAPES = 4
RADIUS_RANGE = (0.09, 0.24)  # of the picture's side
MIN_RADIUS_PX = 5.0
MIN_VISIBLE = 0.55  # of a shape's own area, or it is not drawn: a sliver has no class
HUES = (8.0, 60.0, 115.0)  # of each class, OpenCV's half degrees: colour helps to tell classes apart, as it does in life
HUE_SPREAD = 9.0
ANY_HUE = 0.1  # share of shapes whose colour says nothing
FINE = 4  # sub-pixels per pixel side while a shape is rasterised

Image = NDArray[np.uint8]
Field = NDArray[np.float32]
Rng = np.random.Generator


@dataclass(frozen=True)
class Scene:
    """A picture and what is visible in it.

    Attributes:
        image: (size, size, 3) uint8 BGR.
        clean: (size, size, 3) float32, the picture before blur and noise.
        owner: (size, size) int32, number of the shape seen at each pixel, -1 for background.
        labels: class index of each shape.
        boxes: (x0, y0, x1, y1) px of each shape's visible pixels; x1 and y1 are exclusive.
    """

    image: Image
    clean: Field
    owner: NDArray[np.int32]
    labels: list[int]
    boxes: list[tuple[int, int, int, int]]


def draw_scene(rng: Rng, size: int) -> Scene:
    """Draw one picture of `size` x `size` px with 1 to 4 shapes."""
    canvas = background(rng, size)
    owner = np.full((size, size), -1, dtype=np.int32)
    labels: list[int] = []
    areas: list[int] = []
    wanted = int(rng.integers(1, MAX_SHAPES + 1))
    for _ in range(wanted * 20):
        if len(labels) == wanted:
            break
        label = int(rng.integers(len(CLASSES)))
        cover, full_area = _cover(rng, label, size)
        if _fits(cover > 0.5, full_area, owner, areas):
            owner[cover > 0.5] = len(labels)
            canvas = _paint(rng, canvas, cover, label)
            labels.append(label)
            areas.append(full_area)
    return Scene(_camera(rng, canvas), canvas, owner, labels, [_bounds(owner == number) for number in range(len(labels))])


def background(rng: Rng, size: int) -> Field:
    """(size, size, 3) float32: noise of several octaves, a gradient, stripes and thin clutter; no shape of a class."""
    canvas = np.broadcast_to(rng.uniform(60, 190, 3).astype(np.float32), (size, size, 3)).copy()
    for octave in range(2, 7):
        grid = rng.normal(0, 1, (2**octave, 2**octave, 3)).astype(np.float32)
        canvas += rng.uniform(6, 24) / (octave - 1) * cv2.resize(grid, (size, size), interpolation=cv2.INTER_CUBIC)
    y, x = (np.mgrid[0:size, 0:size] / size).astype(np.float32)
    angle = rng.uniform(0, 2 * np.pi)
    canvas += (rng.uniform(0, 60) * (np.cos(angle) * x + np.sin(angle) * y))[..., None]
    if rng.random() < 0.5:
        angle, waves = rng.uniform(0, np.pi), rng.uniform(4, 20)
        stripes = np.sin(2 * np.pi * waves * (np.cos(angle) * x + np.sin(angle) * y))
        canvas += stripes[..., None] * rng.uniform(-25, 25, 3)
    canvas = np.clip(canvas, 0, 255).astype(np.float32)
    grey, pale = canvas.mean(axis=2, keepdims=True), rng.uniform(0.2, 0.9)
    canvas = np.asarray(grey * pale + canvas * (1 - pale), dtype=np.float32)
    for _ in range(int(rng.integers(2, 9))):
        _clutter(rng, canvas, size)
    return canvas


def _clutter(rng: Rng, canvas: Field, size: int) -> None:
    """A line, an open arc or a bar: edges without a class."""
    colour = tuple(float(value) for value in rng.uniform(0, 255, 3))
    a, b = (tuple(int(value) for value in rng.integers(0, size, 2)) for _ in range(2))
    thick = int(rng.integers(1, max(2, size // 60) + 1))
    kind = int(rng.integers(3))
    if kind == 0:
        cv2.line(canvas, a, b, colour, thick, cv2.LINE_AA)
    elif kind == 1:
        axes = tuple(int(value) for value in rng.integers(size // 16 + 1, size // 3 + 2, 2))
        start = float(rng.uniform(0, 360))
        cv2.ellipse(canvas, a, axes, start, 0, float(rng.uniform(40, 220)), colour, thick, cv2.LINE_AA)
    else:
        length, breadth = rng.uniform(0.2, 0.6) * size, rng.uniform(0.015, 0.035) * size
        corners = cv2.boxPoints(((float(a[0]), float(a[1])), (float(length), float(breadth)), float(rng.uniform(0, 180))))
        cv2.fillPoly(canvas, [np.round(corners).astype(np.int32)], colour, cv2.LINE_AA)


def _cover(rng: Rng, label: int, size: int) -> tuple[Field, int]:
    """Share of each pixel a new shape covers, (size, size) float32 0..1; its area in px with nothing cut off by the border."""
    radius = max(MIN_RADIUS_PX, size * float(np.exp(rng.uniform(*np.log(RADIUS_RANGE)))))
    centre = rng.uniform(0.02, 0.98, 2) * size
    points = _outline(label) * radius
    points[:, 0] *= rng.uniform(0.75, 1.0)
    angle = rng.uniform(0, 2 * np.pi)
    points = points @ np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    fine = np.zeros((size * FINE, size * FINE), dtype=np.uint8)
    cv2.fillPoly(fine, [np.round((points + centre) * FINE).astype(np.int32)], 255)
    cover = cv2.resize(fine, (size, size), interpolation=cv2.INTER_AREA).astype(np.float32) / np.float32(255)
    return cover, round(float(cv2.contourArea(points.astype(np.float32))))


def _outline(label: int) -> NDArray[np.float64]:
    """Corners of a class's shape in the unit circle, (n, 2)."""
    corners = {"disc": 48, "triangle": 3, "star": 10}[CLASSES[label]]
    angles = np.arange(corners) * (2 * np.pi / corners)
    radii = np.where(np.arange(corners) % 2, 0.42, 1.0) if CLASSES[label] == "star" else np.ones(corners)
    return np.stack([radii * np.cos(angles), radii * np.sin(angles)], axis=1)


def _fits(mask: NDArray[np.bool_], full_area: int, owner: NDArray[np.int32], areas: list[int]) -> bool:
    """Whether the new shape is inside enough, and everything under it stays visible enough."""
    if mask.sum() < MIN_VISIBLE * full_area or not mask.any():
        return False
    return all(int(((owner == number) & ~mask).sum()) >= MIN_VISIBLE * area for number, area in enumerate(areas))


def _paint(rng: Rng, canvas: Field, cover: Field, label: int) -> Field:
    """Lay a shaded colour over the canvas where the shape is."""
    behind = canvas[cover > 0.5].mean(axis=0)
    colour = max((_colour(rng, label) for _ in range(3)), key=lambda c: float(np.abs(c - behind).mean()))
    size = len(cover)
    y, x = np.mgrid[0:size, 0:size] / size - 0.5
    angle = rng.uniform(0, 2 * np.pi)
    shade = rng.uniform(0, 60) * (np.cos(angle) * x + np.sin(angle) * y)
    paint = np.clip(colour + shade[..., None], 0, 255)
    return np.asarray(canvas * (1 - cover[..., None]) + paint * cover[..., None], dtype=np.float32)


def _colour(rng: Rng, label: int) -> NDArray[np.float64]:
    """BGR of a shape, most often near its class's hue."""
    hue = rng.uniform(0, 180) if rng.random() < ANY_HUE else rng.normal(HUES[label], HUE_SPREAD) % 180
    pixel = np.array([[[hue, rng.uniform(140, 255), rng.uniform(110, 255)]]]).astype(np.uint8)
    return np.asarray(cv2.cvtColor(pixel, cv2.COLOR_HSV2BGR)[0, 0], dtype=np.float64)


def _camera(rng: Rng, canvas: Field) -> Image:
    """Light, blur and sensor noise."""
    image = canvas * rng.uniform(0.75, 1.15)
    if (sigma := rng.uniform(0, 1.1)) > 0.3:
        image = cv2.GaussianBlur(image, (0, 0), float(sigma)).astype(np.float32)
    image = image + rng.normal(0, rng.uniform(1, 9), image.shape)
    return np.clip(np.round(image), 0, 255).astype(np.uint8)


def _bounds(mask: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    """Tight box of the True pixels."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
