"""Our accuracy is ultralytics' accuracy, for a module and for a file, and is never made up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tests.helpers import COLOURS_BGR, NAMES, tiny_dataset, tiny_model
from toolchain.errors import DataError, ModelError
from toolchain.imaging import Letterbox, network_input, read_image
from toolchain.predictions import Predictions
from toolchain.yolo.dataset import Dataset, load_dataset
from toolchain.yolo.evaluate import (
    evaluate_file,
    evaluate_module,
    evaluate_predictions,
    ground_truth,
    matched_box_iou,
    predict_module,
    prepare_split,
    suppress,
)
from toolchain.yolo.labels import read_labels

IMGSZ = 96


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    return load_dataset(tiny_dataset(tmp_path / "set"))


def from_truth(dataset: Dataset, split: str, boxes: list[Letterbox], change: Any = None) -> Predictions:
    """Predictions that find every object exactly, after `change(picture number, rows)`."""
    rows, counts = [], []
    for number, (labels, box) in enumerate(zip(read_labels(dataset, split), boxes, strict=True)):
        corners = ground_truth(labels, box).numpy()
        made = np.zeros((len(labels), 4 + len(dataset.names)), np.float32)
        made[:, :2], made[:, 2:4] = (corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]
        made[np.arange(len(labels)), 4 + labels[:, 0].astype(int)] = 0.9
        made = made if change is None else change(number, made)
        rows.append(made)
        counts.append(len(made))
    return Predictions(np.concatenate(rows), np.array(counts, dtype=np.int64))


@pytest.fixture
def placed(dataset: Dataset, tmp_path: Path) -> list[Letterbox]:
    return prepare_split(dataset, "val", IMGSZ, tmp_path)[1]


def test_perfect_predictions_score_nearly_one(dataset: Dataset, placed: list[Letterbox]) -> None:
    perfect = from_truth(dataset, "val", placed)
    found = evaluate_predictions(perfect, dataset, "val", IMGSZ, placed)
    assert found.map50 == pytest.approx(0.995)  # ultralytics' interpolation ends at 0.995
    assert found.map50_95 == pytest.approx(0.995)
    assert (found.images, found.instances, found.split, found.shared_with_train) == (4, 12, "val", False)
    assert [(row["name"], row["instances"]) for row in found.per_class] == [("red", 4), ("green", 4), ("blue", 4)]
    assert matched_box_iou(perfect, dataset, "val", IMGSZ, placed) == pytest.approx(1, abs=1e-5)
    assert found.to_dict()["map50"] == found.map50


def test_ground_truth_lies_on_the_drawn_rectangles(dataset: Dataset, placed: list[Letterbox]) -> None:
    """The colour of every pixel in the middle of a box is its class's, so labels and letterbox agree."""
    for image, labels, box in zip(dataset.images("val"), read_labels(dataset, "val"), placed, strict=True):
        pixels = network_input(read_image(image), IMGSZ)[0]
        for (x1, y1, x2, y2), cls in zip(ground_truth(labels, box).tolist(), labels[:, 0].astype(int), strict=True):
            colour = COLOURS_BGR[cls][::-1]
            assert tuple(pixels[:, round(y1) + 1, round(x1) + 1]) == colour
            assert tuple(pixels[:, round(y2) - 2, round(x2) - 2]) == colour
            assert tuple(pixels[:, round(y1) - 2, round(x1) + 1]) != colour


def test_a_shift_is_seen_in_the_tight_metrics_only(dataset: Dataset, placed: list[Letterbox]) -> None:
    def shift(_: int, rows: np.ndarray) -> np.ndarray:
        rows[:, 0] += rows[:, 2] * 0.2  # IoU 0.8 / 1.2 = 2/3
        return rows

    moved = from_truth(dataset, "val", placed, shift)
    found = evaluate_predictions(moved, dataset, "val", IMGSZ, placed)
    assert found.map50 == pytest.approx(0.995)
    assert found.map50_95 == pytest.approx(0.995 * 0.4)  # 0.50, 0.55, 0.60 and 0.65 of ten steps
    assert matched_box_iou(moved, dataset, "val", IMGSZ, placed) == pytest.approx(2 / 3, abs=1e-4)


def test_missing_a_class_costs_a_third(dataset: Dataset, placed: list[Letterbox]) -> None:
    found = evaluate_predictions(from_truth(dataset, "val", placed, lambda _, rows: rows[1:]), dataset, "val", IMGSZ, placed)
    assert found.map50 == pytest.approx(0.995 * 2 / 3)
    assert found.per_class[0]["map50"] == 0


def test_nothing_found_is_zero_and_no_box_has_an_iou(dataset: Dataset, placed: list[Letterbox]) -> None:
    empty = Predictions(np.zeros((0, 7), np.float32), np.zeros(4, np.int64))
    assert evaluate_predictions(empty, dataset, "val", IMGSZ, placed).map50_95 == 0
    assert matched_box_iou(empty, dataset, "val", IMGSZ, placed) is None


def test_a_class_without_objects_has_no_figure(dataset: Dataset, placed: list[Letterbox]) -> None:
    for image in dataset.images("val"):
        label = dataset.label_path(image)
        label.write_text("\n".join(line for line in label.read_text().splitlines() if not line.startswith("1")))
    found = evaluate_predictions(from_truth(dataset, "val", placed), dataset, "val", IMGSZ, placed)
    assert found.per_class[1] == {"id": 1, "name": "green", "instances": 0, "map50": None, "map50_95": None}
    assert found.map50 == pytest.approx(0.995)


def test_a_split_without_objects_has_no_accuracy(dataset: Dataset, placed: list[Letterbox]) -> None:
    predictions = from_truth(dataset, "val", placed)
    for image in dataset.images("val"):
        dataset.label_path(image).unlink()
    with pytest.raises(DataError, match="no labelled object"):
        evaluate_predictions(predictions, dataset, "val", IMGSZ, placed)


def test_weak_and_loose_boxes_do_not_count_as_matched(dataset: Dataset, placed: list[Letterbox]) -> None:
    def spoil(_: int, rows: np.ndarray) -> np.ndarray:
        rows[0, 4:] *= 0.2  # below the confidence of 0.25
        rows[1, :2] += rows[1, 2:4]  # beside the object
        return rows

    assert matched_box_iou(from_truth(dataset, "val", placed, spoil), dataset, "val", IMGSZ, placed) == pytest.approx(1, abs=1e-5)


# -------------------------------------------------------------------------------------------------------- wrong predictions


def test_predictions_must_belong_to_the_split(dataset: Dataset, placed: list[Letterbox]) -> None:
    good = from_truth(dataset, "val", placed)
    with pytest.raises(DataError, match="not of this split"):
        evaluate_predictions(good, dataset, "train", IMGSZ, placed)
    with pytest.raises(DataError, match="other classes"):
        evaluate_predictions(Predictions(good.rows[:, :6], good.counts), dataset, "val", IMGSZ, placed)
    with pytest.raises(DataError, match="another size"):
        evaluate_predictions(good, dataset, "val", IMGSZ * 2, placed)


@pytest.mark.parametrize("value", [np.nan, np.inf, 7.0, -3.0])
def test_impossible_scores_are_refused(dataset: Dataset, placed: list[Letterbox], value: float) -> None:
    bad = from_truth(dataset, "val", placed)
    bad.rows[0, 5] = value
    with pytest.raises(DataError, match="NaN, infinity, or scores"):
        evaluate_predictions(bad, dataset, "val", IMGSZ, placed)


# ------------------------------------------------------------------------------------------------------------- suppression


@pytest.mark.parametrize("count", [0, 1, 5, 6, 7, 6000])
def test_suppression_keeps_every_separate_box(count: int) -> None:
    """6 is special: ultralytics takes a last dimension of 6 for boxes that are suppressed already."""
    rows = np.zeros((count, 7), np.float32)
    rows[:, 0], rows[:, 1], rows[:, 2:4] = np.arange(count) % 100 * 10, np.arange(count) // 100 * 10, 8
    rows[:, 4] = np.linspace(0.9, 0.1, count)
    found = suppress(rows)
    assert found.shape == (min(count, 300), 6)
    assert torch.equal(found[:, 4], found[:, 4].sort(descending=True).values)
    if count:
        np.testing.assert_allclose(found[0], [-4, -4, 4, 4, 0.9, 0])


def test_suppression_gives_a_box_all_its_classes_and_removes_doubles() -> None:
    rows = np.array([[20, 20, 10, 10, 0.9, 0.5, 0], [20, 20.5, 10, 10, 0.8, 0.4, 0]], np.float32)
    found = suppress(rows)
    assert [(round(float(row[4]), 3), int(row[5])) for row in found] == [(0.9, 0), (0.5, 1)]


# ------------------------------------------------------------------------------------------------------------------ modules


def test_a_module_and_its_file_score_the_same(dataset: Dataset, tmp_path: Path) -> None:
    module = tiny_model().train()
    images, placed = prepare_split(dataset, "val", IMGSZ, tmp_path)
    predict_module(module, images, tmp_path / "out.npz", batch=3)
    assert module.training
    direct = evaluate_module(module, dataset, "val", IMGSZ, tmp_path)
    assert evaluate_file(tmp_path / "out.npz", dataset, "val", IMGSZ, placed) == direct
    assert evaluate_module(module, dataset, "val", IMGSZ, tmp_path) == direct


def test_the_batch_size_changes_nothing(dataset: Dataset, tmp_path: Path) -> None:
    images, _ = prepare_split(dataset, "val", IMGSZ, tmp_path)
    one, all_at_once = (predict_module(tiny_model(), images, batch=size) for size in (1, 8))
    assert np.array_equal(one.counts, all_at_once.counts)
    np.testing.assert_allclose(one.rows, all_at_once.rows, atol=1e-3)


def test_pictures_are_prepared_once_and_again_when_they_change(dataset: Dataset, tmp_path: Path) -> None:
    first, placed = prepare_split(dataset, "val", IMGSZ, tmp_path)
    stamp = first.stat().st_mtime_ns
    again, placed_again = prepare_split(dataset, "val", IMGSZ, tmp_path)
    assert (again, placed_again, again.stat().st_mtime_ns) == (first, placed, stamp)
    assert prepare_split(dataset, "val", 64, tmp_path)[0] != first
    dataset.label_path(dataset.images("val")[0]).write_text("")
    assert prepare_split(load_dataset(dataset.path), "val", IMGSZ, tmp_path)[0] != first
    assert np.load(first).shape == (4, 3, IMGSZ, IMGSZ)


def test_a_bad_picture_leaves_no_half_made_set(dataset: Dataset, tmp_path: Path) -> None:
    dataset.images("val")[2].write_bytes(b"broken")
    with pytest.raises(DataError, match="not a readable image"):
        prepare_split(dataset, "val", IMGSZ, tmp_path)
    assert list((tmp_path / "prepared").iterdir()) == []


class Constant(nn.Module):
    """Gives the same output for every picture."""

    def __init__(self, output: torch.Tensor) -> None:
        super().__init__()
        self.output = nn.Parameter(output)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.output.expand(len(x), *self.output.shape)


@pytest.mark.parametrize(
    ("output", "said"),
    [(torch.zeros(300, 6), "end-to-end"), (torch.full((7, 40), torch.nan), "NaN"), (torch.zeros(7), "not a detection head's")],
)
def test_other_outputs_are_refused(dataset: Dataset, tmp_path: Path, output: torch.Tensor, said: str) -> None:
    images, _ = prepare_split(dataset, "val", IMGSZ, tmp_path)
    with pytest.raises(ModelError, match=said):
        predict_module(Constant(output), images)


def test_val_that_is_train_is_marked(tmp_path: Path) -> None:
    path = tiny_dataset(tmp_path / "set", {"train": 2})
    path.write_text("train: images/train\nval: images/train\nnames: [red, green, blue]\n")
    dataset = load_dataset(path)
    placed = prepare_split(dataset, "val", IMGSZ, tmp_path)[1]
    assert evaluate_predictions(from_truth(dataset, "val", placed), dataset, "val", IMGSZ, placed).shared_with_train
    assert evaluate_predictions(from_truth(dataset, "train", placed), dataset, "train", IMGSZ, placed).shared_with_train


# ------------------------------------------------------------------------------------------------- the same as ultralytics


def painted_boxes(picture: torch.Tensor) -> torch.Tensor:
    """(3, s, s) in 0..1 -> (7, 36): what is painted, found by colour, then 12 moved and weaker copies of each box."""
    rng = np.random.default_rng(1)
    columns = []
    for cls, colour in enumerate(COLOURS_BGR):
        target = torch.tensor(colour[::-1]).view(3, 1, 1) / 255
        ys, xs = torch.nonzero((picture - target).abs().amax(0) < 0.02, as_tuple=True)
        if not len(xs):
            continue
        left, top, right, bottom = float(xs.min()), float(ys.min()), float(xs.max()) + 1, float(ys.max()) + 1
        for _ in range(12):
            move, score = rng.normal(0, 0.15, 4), rng.uniform(0.05, 0.95, 3) * (0.2, 0.3, 0.4)
            score[cls] = rng.uniform(0.1, 0.9)
            wide, high = right - left, bottom - top
            columns.append([(left + right) / 2 + move[0] * wide, (top + bottom) / 2 + move[1] * high,
                            wide * (1 + move[2]), high * (1 + move[3]), *score])  # fmt: skip
    made = torch.zeros(7, 36)
    if columns:
        made[:, : len(columns)] = torch.tensor(columns).T
    return made


@pytest.mark.parametrize("size", [(96, 96), (96, 64), (61, 93)])
def test_the_figures_are_those_of_ultralytics_validator(tmp_path: Path, size: tuple[int, int]) -> None:
    """Both get the same imperfect detector; rect=False, as our letterbox is square."""
    from ultralytics.models.yolo.detect import DetectionValidator
    from ultralytics.nn.tasks import DetectionModel

    class Painted(DetectionModel):
        def _predict_once(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            if not hasattr(self, "stride"):  # while it is being built
                return super()._predict_once(x, *args, **kwargs)
            return torch.stack([painted_boxes(picture) for picture in x.float()]), None

    path = tiny_dataset(tmp_path / "set", {"train": 1, "val": 6}, size=size, seed=3)
    path.write_text(f"path: {path.parent}\n" + path.read_text())
    module = tiny_model()
    module.__class__ = Painted
    module.names = NAMES

    ours = evaluate_module(module, load_dataset(path), "val", IMGSZ, tmp_path)
    validator = DetectionValidator(
        save_dir=tmp_path / "val",
        args={"data": str(path), "imgsz": IMGSZ, "rect": False, "plots": False, "workers": 0, "batch": 2, "device": "cpu"},
    )
    theirs = validator(model=module)
    assert 0.05 < ours.map50_95 < 0.9  # neither trivially right nor trivially wrong
    assert ours.map50_95 == pytest.approx(theirs["metrics/mAP50-95(B)"], abs=2e-3)
    assert ours.map50 == pytest.approx(theirs["metrics/mAP50(B)"], abs=2e-3)
    assert ours.precision == pytest.approx(theirs["metrics/precision(B)"], abs=2e-3)
    assert ours.recall == pytest.approx(theirs["metrics/recall(B)"], abs=2e-3)
