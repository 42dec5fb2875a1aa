"""mAP with ultralytics' own suppression and metric code, the same way for torch modules and for engines' output files."""

from __future__ import annotations

import json
import math
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from toolchain import imaging, progress
from toolchain.errors import DataError, ModelError
from toolchain.imaging import Letterbox
from toolchain.predictions import MIN_SCORE, Predictions, candidates
from toolchain.yolo.dataset import Dataset
from toolchain.yolo.labels import Labels, read_labels

NMS_IOU, MAX_DETECTIONS = 0.7, 300  # ultralytics' validator
MATCH_SCORE, MATCH_IOU = 0.25, 0.5
SCORE_SLACK = 0.02  # a quantized sigmoid may overshoot by a step
IOU_STEPS = 10  # 0.50, 0.55 ... 0.95


@dataclass(frozen=True)
class Accuracy:
    """Detection accuracy over one split, all ratios 0..1.

    Attributes:
        map50: mean average precision at IoU 0.5.
        map50_95: the same, averaged over IoU 0.5..0.95.
        precision: at the confidence of the best F1.
        recall: at that confidence.
        per_class: id, name, instances, map50, map50_95; the last two are None for a class without an object in the split.
        images: pictures evaluated.
        instances: objects in them.
        split: which split.
        shared_with_train: the split has pictures of `train`, so the figures flatter the model.
    """

    map50: float
    map50_95: float
    precision: float
    recall: float
    per_class: list[dict[str, Any]]
    images: int
    instances: int
    split: str
    shared_with_train: bool

    def to_dict(self) -> dict[str, Any]:
        """JSON types."""
        return asdict(self)


def prepare_split(dataset: Dataset, split: str, imgsz: int, work: Path) -> tuple[Path, list[Letterbox]]:
    """The split's pictures as one uint8 `.npy`, made once per (data set, split, imgsz) under `work`.

    Returns:
        path of (n, 3, imgsz, imgsz) uint8, and where each picture lies in its square.
    """
    folder = work / "prepared" / f"{split}-{imgsz}-{dataset.sha256[:16]}"
    if not folder.is_dir():
        images = dataset.images(split)
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".making-", dir=folder.parent) as partial:
            made = Path(partial) / folder.name
            made.mkdir()
            placed = imaging.prepare_set(images, imgsz, made / "images.npy")
            (made / "letterboxes.json").write_text(json.dumps([asdict(box) for box in placed]))
            try:
                made.rename(folder)
            except OSError:  # another process made it meanwhile
                if not folder.is_dir():
                    raise
    return folder / "images.npy", [Letterbox(**box) for box in json.loads((folder / "letterboxes.json").read_text())]


def predict_module(module: nn.Module, images_npy: Path, out_npz: Path | None = None, batch: int = 8) -> Predictions:
    """Run a network over a prepared set, in eval mode; its mode is put back.

    Args:
        module: maps (n, 3, s, s) float32 in 0..1 to (n, 4 + classes, anchors), alone or first of a tuple.
        images_npy: (n, 3, s, s) uint8.
        out_npz: also written there, if given.

    Raises:
        ModelError: the output is not that of a head that needs suppression, or holds NaN.
    """
    images = np.load(images_npy, mmap_mode="r")
    training, device = module.training, next(module.parameters()).device
    rows, counts = [], []
    module.eval()
    try:
        with torch.inference_mode(), progress.task("Evaluating", total=len(images), unit="images") as task:
            for start in range(0, len(images), batch):
                chunk = torch.from_numpy(np.array(images[start : start + batch])).to(device).float() / 255
                output = module(chunk)
                found, per_image = candidates(_raw(output, len(chunk)))
                rows.append(found)
                counts.append(per_image)
                task.advance(len(chunk))
    finally:
        module.train(training)
    predictions = Predictions(np.concatenate(rows), np.concatenate(counts))
    if out_npz is not None:
        predictions.save(out_npz)
    return predictions


def _raw(output: Any, images: int) -> NDArray[np.float32]:
    first = output[0] if isinstance(output, tuple | list) else output
    if not isinstance(first, torch.Tensor) or first.ndim != 3 or len(first) != images:
        raise ModelError("the network's output is not a detection head's", got=getattr(first, "shape", type(first)))
    if first.shape[2] == 6 and first.shape[1] > first.shape[2]:
        fix = "evaluate its one-to-many head: module.end2end = False"
        raise ModelError("the network suppresses boxes itself (end-to-end head)", got=tuple(first.shape), fix=fix)
    array = first.float().cpu().numpy()
    if not np.isfinite(array).all():
        raise ModelError("the network's output holds NaN or infinity", got=tuple(array.shape))
    return array


def suppress(rows: NDArray[np.float32], min_score: float = MIN_SCORE) -> torch.Tensor:
    """Non-maximum suppression of one picture's candidates, by ultralytics, without its time limit.

    Args:
        rows: (m, 4 + classes), see `Predictions`.

    Returns:
        (k, 6) float32 x1, y1, x2, y2, score, class in network pixels, best score first.
    """
    import torchvision  # noqa: F401  ultralytics picks its suppression code by whether this is loaded
    from ultralytics.utils.nms import non_max_suppression

    batch = torch.from_numpy(np.ascontiguousarray(rows.T))[None].clone()
    if batch.shape[2] == 6:  # ultralytics takes a last dimension of 6 for boxes already suppressed
        batch = torch.cat((batch, torch.zeros_like(batch[..., :1])), 2)
    found = non_max_suppression(batch, min_score, NMS_IOU, multi_label=True, max_det=MAX_DETECTIONS, max_time_img=math.inf,
                                nc=rows.shape[1] - 4)  # fmt: skip
    result: torch.Tensor = found[0]
    return result


def ground_truth(labels: Labels, box: Letterbox) -> torch.Tensor:
    """(k, 5) normalised labels -> (k, 4) x1, y1, x2, y2 in network pixels."""
    size = np.round(np.array([box.width, box.height]) * box.scale)  # the whole pixels that the letterbox scaled it to
    centre, half = labels[:, 1:3] * size + (box.left, box.top), labels[:, 3:5] * size / 2
    return torch.from_numpy(np.concatenate((centre - half, centre + half), 1).astype(np.float32))


def _check_fit(predictions: Predictions, dataset: Dataset, split: str, imgsz: int, letterboxes: list[Letterbox]) -> None:
    images = len(dataset.images(split))
    if len(predictions.counts) != images or len(letterboxes) != images:
        got = f"{len(predictions.counts)} predictions, {len(letterboxes)} letterboxes, {images} images in {split!r}"
        raise DataError("predictions are not of this split", got=got)
    classes = predictions.rows.shape[1] - 4
    if classes != len(dataset.names):
        raise DataError("predictions have other classes than the data set", got=f"{classes} scores, {len(dataset.names)} names")
    if any(round(max(box.height, box.width) * box.scale) != imgsz for box in letterboxes):
        raise DataError("the pictures were placed for another size", got=f"{letterboxes[0]}, asked for {imgsz} px")
    scores = predictions.rows[:, 4:]
    if not np.isfinite(predictions.rows).all() or (
        scores.size and not -SCORE_SLACK <= scores.min() <= scores.max() <= 1 + SCORE_SLACK
    ):
        raise DataError(
            "predictions hold NaN, infinity, or scores outside 0..1", fix="compare the engine with the ONNX file first"
        )


def evaluate_predictions(
    predictions: Predictions, dataset: Dataset, split: str, imgsz: int, letterboxes: list[Letterbox]
) -> Accuracy:
    """Accuracy of stored candidates.

    Args:
        predictions: one entry per picture of the split, in its order.
        imgsz: side of the network input they were made at, px.
        letterboxes: where each picture lies in that square.

    Raises:
        DataError: they do not belong to this split, or the split has no object.
    """
    from ultralytics.engine.validator import BaseValidator
    from ultralytics.utils.metrics import DetMetrics, box_iou

    _check_fit(predictions, dataset, split, imgsz, letterboxes)
    all_labels = read_labels(dataset, split)
    instances = sum(map(len, all_labels))
    if not instances:
        raise DataError("the split has no labelled object, so there is no accuracy", got=f"{dataset.path}: {split}")
    matcher = SimpleNamespace(iouv=torch.linspace(0.5, 0.95, IOU_STEPS))
    metrics = DetMetrics(names=dataset.names)
    starts = np.concatenate(([0], np.cumsum(predictions.counts)))
    with progress.task("Matching boxes", total=len(all_labels), unit="images") as task:
        for index, (labels, box, image) in enumerate(zip(all_labels, letterboxes, dataset.images(split), strict=True)):
            found = suppress(predictions.rows[starts[index] : starts[index + 1]])
            classes = torch.from_numpy(labels[:, 0])
            hits = np.zeros((len(found), IOU_STEPS), dtype=bool)
            if len(found) and len(labels):
                overlap = box_iou(ground_truth(labels, box), found[:, :4])
                hits = BaseValidator.match_predictions(matcher, found[:, 5], classes, overlap).numpy()
            metrics.update_stats({
                "tp": hits, "conf": found[:, 4].numpy(), "pred_cls": found[:, 5].numpy(), "target_cls": labels[:, 0],
                "target_img": np.unique(labels[:, 0]), "im_name": image.name,
            })  # fmt: skip
            task.advance()
    metrics.process()
    return _accuracy(metrics, dataset, split, len(all_labels), instances)


def _accuracy(metrics: Any, dataset: Dataset, split: str, images: int, instances: int) -> Accuracy:
    position = {int(cls): index for index, cls in enumerate(metrics.ap_class_index)}
    per_class = []
    for identity, name in dataset.names.items():
        known = identity in position  # a class without an object has no average precision
        map50, map50_95 = map(float, metrics.class_result(position[identity])[2:]) if known else (None, None)
        count = int(metrics.nt_per_class[identity])
        per_class.append({"id": identity, "name": name, "instances": count, "map50": map50, "map50_95": map50_95})
    precision, recall, mean50, mean50_95 = (float(value) for value in metrics.mean_results())
    shared = split == "train" or dataset.shares_images("train", split)
    return Accuracy(mean50, mean50_95, precision, recall, per_class, images, instances, split, shared)


def evaluate_module(module: nn.Module, dataset: Dataset, split: str, imgsz: int, work: Path) -> Accuracy:
    """Accuracy of a torch network.

    Args:
        work: keeps the prepared pictures for the next call.
    """
    images, letterboxes = prepare_split(dataset, split, imgsz, work)
    return evaluate_predictions(predict_module(module, images), dataset, split, imgsz, letterboxes)


def evaluate_file(npz: Path, dataset: Dataset, split: str, imgsz: int, letterboxes: list[Letterbox]) -> Accuracy:
    """Accuracy of a predictions file, such as a device sends back.

    Raises:
        DataError: not a predictions file, or not of this split.
    """
    return evaluate_predictions(Predictions.load(npz), dataset, split, imgsz, letterboxes)


def matched_box_iou(
    predictions: Predictions, dataset: Dataset, split: str, imgsz: int, letterboxes: list[Letterbox]
) -> float | None:
    """Mean IoU of confident boxes with the objects they find: how tight the boxes are, apart from how many are found.

    Boxes above score 0.25 are matched one-to-one with objects of their class so that the total IoU is largest
    (`scipy.optimize.linear_sum_assignment`); pairs below IoU 0.5 do not count.

    Returns:
        mean over all pairs of the split; None when no box matches any object.
    """
    from scipy.optimize import linear_sum_assignment
    from ultralytics.utils.metrics import box_iou

    _check_fit(predictions, dataset, split, imgsz, letterboxes)
    starts = np.concatenate(([0], np.cumsum(predictions.counts)))
    matched: list[float] = []
    for index, (labels, box) in enumerate(zip(read_labels(dataset, split), letterboxes, strict=True)):
        found = suppress(predictions.rows[starts[index] : starts[index + 1]], MATCH_SCORE)
        overlap = box_iou(ground_truth(labels, box), found[:, :4]).numpy()
        overlap = np.where(labels[:, :1] == found[:, 5].numpy()[None], overlap, 0)
        overlap = np.where(overlap >= MATCH_IOU, overlap, 0)
        pairs = linear_sum_assignment(-overlap)
        matched += [float(value) for value in overlap[pairs] if value > 0]
    return float(np.mean(matched)) if matched else None
