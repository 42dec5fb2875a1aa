"""Training of a detector that is not a network of ultralytics' layers, with ultralytics' augmentation, losses and schedule."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn
from ultralytics.data import build_yolo_dataset
from ultralytics.nn.tasks import BaseModel
from ultralytics.utils.loss import v8DetectionLoss
from ultralytics.utils.tal import dist2bbox, make_anchors

from toolchain.yolo.dataset import Dataset
from toolchain.yolo.finetune import list_data
from toolchain.yolo.trainer import PrunedTrainer, TrainSettings, Tuned, fine_tune


class GraphDetector(BaseModel):  # type: ignore[misc]
    """Any module that gives raw head outputs, in the place of a DetectionModel.

    Args:
        body: (n, 3, imgsz, imgsz) -> {"boxes": (n, 4 · bins, anchors), "scores": (n, classes, anchors)} logits and "feats", maps
            whose sizes are those of the levels.
        strides: of the levels, pixels per cell.
        names: class index -> name.
    """

    def __init__(self, body: nn.Module, *, strides: tuple[int, ...], bins: int, names: Mapping[int, str], imgsz: int) -> None:
        super().__init__()
        self.body, self.imgsz, self.names, self.nc = body, imgsz, dict(names), len(names)
        self.stride = torch.tensor(strides, dtype=torch.float32)
        self.model = [SimpleNamespace(stride=self.stride, reg_max=bins, nc=self.nc)]  # what the loss asks of a head

    def predict(self, x: torch.Tensor, *args: Any, **options: Any) -> Any:
        """Raw outputs in training; otherwise (n, 4 + classes, anchors) in pixels and 0..1 before them."""
        raw = self.body(x)
        return raw if self.training else (self._decoded(raw), raw)

    def _decoded(self, raw: Mapping[str, Any]) -> torch.Tensor:
        centres, strides = (t.transpose(0, 1) for t in make_anchors(raw["feats"], self.stride, 0.5))
        n, width, anchors = raw["boxes"].shape
        bins = torch.arange(width // 4, dtype=torch.float32, device=centres.device).view(1, 1, -1, 1)
        sides = (raw["boxes"].view(n, 4, width // 4, anchors).softmax(2) * bins).sum(2) if width > 4 else raw["boxes"]
        return torch.cat([dist2bbox(sides, centres.unsqueeze(0), xywh=True, dim=1) * strides, raw["scores"].sigmoid()], 1)

    def init_criterion(self) -> Any:
        return v8DetectionLoss(self)

    def set_head_attr(self, **_: Any) -> None:
        """Nothing: there is no head with settings."""


class SquareTrainer(PrunedTrainer):
    """Validates on square pictures: a graph takes one size only."""

    def build_dataset(self, img_path: str, mode: str = "train", batch: int | None = None) -> Any:
        stride = max(int(self.model.stride.max()), 32)
        return build_yolo_dataset(self.args, img_path, batch, self.data, mode=mode, rect=False, stride=stride)


def train_graph(
    network: GraphDetector,
    out: Path,
    *,
    dataset: Dataset,
    settings: TrainSettings,
    teacher: GraphDetector,
    job: Mapping[str, str],
    title: str,
) -> Tuned:
    """Train in place, distilled; an unfinished training of the same job in `out` goes on.

    Args:
        out: existing folder.
        job: what the result depends on besides settings and data.

    Raises:
        ConfigError: a setting that ultralytics does not know.
        RunFolderError: `out` holds the training of another job.
        TrainingError: the loss is not finite.
    """
    return fine_tune(
        network, list_data(dataset, out), network.imgsz, out, settings, teacher=teacher if settings.distill.any else None,
        job={**job, "data": dataset.sha256}, title=title, trainer=SquareTrainer,
    )  # fmt: skip
