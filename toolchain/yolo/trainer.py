"""Fine-tune the pruned network itself, with ultralytics' augmentation, losses and schedule.

Ultralytics' own `train()` rebuilds the network from its YAML, so a pruned model silently becomes full-size. This trainer hands
over the module it was given, asserts its parameter count at every epoch, keeps the moving average in float32, and saves its
whole state after each epoch so that a killed training goes on.
"""

from __future__ import annotations

import io
import random
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from ultralytics.cfg import get_cfg
from ultralytics.models.yolo.detect import DetectionTrainer
from ultralytics.utils.torch_utils import ModelEMA, select_device

from toolchain import progress
from toolchain.errors import ConfigError, RunFolderError, TrainingError, UnknownNameError
from toolchain.stage import read_json, write_bytes, write_json
from toolchain.yolo.distill import DistilledLoss, DistillWeights
from toolchain.yolo.offline import stay_offline, stay_quiet
from toolchain.yolo.teacher import make_teacher

STATE = "train_state.pt"
OPTIMIZERS = ("Adam", "Adamax", "AdamW", "NAdam", "RAdam", "RMSprop", "SGD", "MuSGD", "auto")


@dataclass(frozen=True)
class TrainSettings:
    """Hyper-parameters by ultralytics' names; `extra` passes any other of its training keys through.

    `nbs` equals the batch: ultralytics' nominal 64 leaves 3 optimizer steps an epoch on a set of 200 images.
    `warmup_bias_lr` is 0: its default 0.1 wrecks a trained network in the first epoch.
    """

    epochs: int = 60
    batch: int = 16
    lr0: float = 1e-3
    lrf: float = 0.01
    optimizer: str = "AdamW"
    momentum: float = 0.9
    weight_decay: float = 5e-4
    warmup_epochs: float = 1.0
    cos_lr: bool = True
    patience: int = 0
    mosaic: float = 1.0
    close_mosaic: int = 10
    val_every: int = 5
    seed: int = 0
    device: str = "cpu"
    distill: DistillWeights = field(default_factory=DistillWeights)
    extra: Mapping[str, Any] = field(default_factory=dict)

    def overrides(self, data: Path, imgsz: int, folder: Path) -> dict[str, Any]:
        """Ultralytics' training arguments."""
        own = asdict(self)
        for key in ("distill", "extra", "val_every"):
            own.pop(key)
        return {
            **own, "data": str(data), "imgsz": imgsz, "project": str(folder), "name": "ultralytics", "exist_ok": True,
            "nbs": self.batch, "warmup_bias_lr": 0.0, "plots": False, "save": True, "amp": False, "cache": "ram", "workers": 0,
            "deterministic": True, "verbose": False, "model": "pruned.pt", "task": "detect", **self.extra,
        }  # fmt: skip


@dataclass(frozen=True)
class Tuned:
    """The result: the moving average of the best validated epoch, float32, eval mode."""

    network: nn.Module
    best_epoch: int
    best_fitness: float
    curve: list[dict[str, float]]


class PrunedTrainer(DetectionTrainer):  # type: ignore[misc]
    """Ultralytics' trainer around a given module."""

    def __init__(
        self,
        network: Any,
        teacher: nn.Module | None,
        settings: TrainSettings,
        folder: Path,
        overrides: dict[str, Any],
        job: Mapping[str, Any],
    ) -> None:
        self._network, self._teacher, self._settings = network, teacher, settings
        self._parameters = sum(p.numel() for p in network.parameters())
        self._job = dict(job)
        self._state_file, self._curve_file = folder / STATE, folder / "curve.json"
        self._best_state: dict[str, torch.Tensor] | None = None
        self._best_epoch, self.curve = 0, list[dict[str, float]]()
        super().__init__(overrides=overrides)
        self.add_callback("on_train_start", lambda trainer: trainer._attach_loss())
        self.add_callback("on_train_epoch_end", lambda trainer: trainer._assert_same())

    def setup_model(self) -> dict[str, Any] | None:
        """The module as given; a state saved earlier, if there is one."""
        self.model = self._network
        self.model.args = self.args
        for parameter in self.model.parameters():
            parameter.requires_grad_(True)
        return read_state(self._state_file, self._job)

    def set_model_attributes(self) -> None:
        """Names, classes and hyper-parameters, as the stock trainer sets them."""
        self.model.nc, self.model.names, self.model.args = self.data["nc"], self.data["names"], self.args

    def _attach_loss(self) -> None:
        self._assert_same()
        detection = self.model.init_criterion()
        if self._teacher is not None and self._settings.distill.any:
            teacher = make_teacher(self._teacher, self.device)
            detection = DistilledLoss(detection, teacher, self._settings.distill, self.model.model[-1].reg_max)
        self.model.criterion = detection

    def _assert_same(self) -> None:
        for name, module in (("model", self.model), ("moving average", self.ema.ema)):
            count = sum(p.numel() for p in module.parameters())
            if count != self._parameters:
                raise TrainingError(
                    f"the {name} is no longer the pruned network", got=f"{count} parameters, {self._parameters} given"
                )

    def validate(self) -> tuple[dict[str, float], float | None]:
        """Every `val_every` epochs and at the end; nothing is claimed for the epochs between."""
        last = self.epoch + 1 >= self.epochs
        if not last and (self.epoch + 1) % self._settings.val_every:
            return {}, None
        metrics, fitness = super().validate()
        value = float(metrics["metrics/mAP50-95(B)"])
        entry = {"epoch": self.epoch + 1, "map50": float(metrics["metrics/mAP50(B)"]), "map50_95": value}
        self.curve.append({**entry, "loss": float(sum(float(v) for v in self.tloss.values()))})
        if self._best_state is None or value >= max(point["map50_95"] for point in self.curve):
            self._best_state = {k: v.detach().clone() for k, v in self.ema.ema.state_dict().items()}
            self._best_epoch = self.epoch + 1
        return metrics, fitness

    def _handle_nan_recovery(self, epoch: int) -> bool:
        """Ultralytics would go back to its own last checkpoint, which is not the pruned network's, and try again.

        Raises:
            TrainingError: the loss is not a number.
        """
        if self.loss is not None and not bool(torch.isfinite(self.loss).all()):
            raise TrainingError(
                "the loss is not finite",
                got=f"{float(self.loss)} in epoch {epoch + 1}",
                fix=f"a lower --lr0 than {self.args.lr0}",
            )
        return False

    def save_model(self) -> bool:
        """Everything a resumed training needs, in float32, replaced in one step."""
        buffer = io.BytesIO()
        torch.save({
            "job": self._job, "stopped": bool(self.stop),
            "epoch": self.epoch, "model": self.model.state_dict(), "ema": self.ema.ema.state_dict(), "updates": self.ema.updates,
            "optimizer": self.optimizer.state_dict(), "best_fitness": self.best_fitness, "best_state": self._best_state,
            "best_epoch": self._best_epoch, "curve": self.curve,
            "stopper": {"best_fitness": self.stopper.best_fitness, "best_epoch": self.stopper.best_epoch},
        }, buffer)  # fmt: skip
        write_bytes(self._state_file, buffer.getvalue())
        write_json(self._curve_file, self.curve)
        return True

    def resume_training(self, ckpt: dict[str, Any] | None) -> None:
        """Continue after the last whole epoch."""
        if ckpt is None:
            return
        self.model.load_state_dict(ckpt["model"])
        self.ema = ModelEMA(self.model)
        self.ema.ema.load_state_dict(ckpt["ema"])
        self.ema.updates = ckpt["updates"]
        self.optimizer.load_state_dict(ckpt["optimizer"])
        self.best_fitness, self._best_state, self._best_epoch = ckpt["best_fitness"], ckpt["best_state"], ckpt["best_epoch"]
        self.curve = list(ckpt["curve"])
        self.stopper.__dict__.update(ckpt["stopper"])
        self.start_epoch = ckpt["epoch"] + 1
        seed = self.args.seed + 1000 * self.start_epoch  # a resumed epoch must not repeat the first epoch's augmentation
        random.seed(seed)
        np.random.seed(seed)  # ultralytics' augmentations draw from numpy's global generator
        torch.manual_seed(seed)

    def final_eval(self) -> None:
        """Nothing: the best state is in memory, and evaluation is a stage of its own."""

    def result(self) -> Tuned:
        """The best moving average as a module."""
        self._assert_same()
        if self._best_state is None:
            raise TrainingError("training ended without a validated epoch", fix="give at least one epoch")
        network = deepcopy(self.ema.ema)
        network.criterion = None
        network.load_state_dict(self._best_state)
        best = max(point["map50_95"] for point in self.curve)
        return Tuned(network.float().eval().requires_grad_(True), self._best_epoch, best, self.curve)


def fine_tune(
    network: nn.Module, data: Path, imgsz: int, folder: Path, settings: TrainSettings, *, teacher: nn.Module | None = None,
    job: Mapping[str, str] | None = None, title: str = "Fine-tuning", trainer: type[PrunedTrainer] = PrunedTrainer,
) -> Tuned:  # fmt: skip
    """Train `network` in place; goes on from `folder` when it holds an unfinished training of the same job.

    Args:
        network: stock DetectionModel, cut or not, float32.
        data: ultralytics data YAML; `train` is learnt, `val` chooses the epoch.
        imgsz: picture side, pixels.
        folder: state, curve and ultralytics' logs.
        settings: hyper-parameters.
        teacher: dense parent for distillation; None or zero weights: plain fine-tuning.
        job: what else the result depends on (hashes of the files); a state of another job is refused, not continued.
        trainer: the class that trains.

    Raises:
        ConfigError: a setting that ultralytics does not know.
        RunFolderError: `folder` holds the training of another job.
        TrainingError: the network changed its size, or the loss is not finite.
    """
    if settings.epochs < 1:
        raise ConfigError("epochs below 1", got=settings.epochs, fix="--epochs 60")
    stay_offline()
    stay_quiet()
    overrides = settings.overrides(data, imgsz, folder)
    check_settings(overrides)
    whole = {**asdict(settings), "imgsz": imgsz, **(job or {})}
    state = read_state(folder / STATE, whole)
    folder.mkdir(parents=True, exist_ok=True)
    training = trainer(network, teacher, settings, folder, overrides, whole)
    if state is not None and (state["stopped"] or state["epoch"] + 1 >= settings.epochs):
        return _restore(state, network)
    with progress.task(title, settings.epochs, "epochs") as bar:
        if state is not None:
            bar.advance(state["epoch"] + 1)
        training.add_callback("on_fit_epoch_end", _reporter(bar))
        training.train()
    return training.result()


def check_settings(overrides: Mapping[str, Any]) -> None:
    """Raises: ConfigError for a key, value, optimizer or device that ultralytics would refuse in the middle of its set-up."""
    try:
        get_cfg(overrides=dict(overrides))
        select_device(overrides["device"])
    except (AssertionError, SyntaxError, TypeError, ValueError) as error:
        got = " ".join(str(error).split())[:400]
        raise ConfigError("a training setting that ultralytics refuses", got=got, fix="correct it, or leave it out") from error
    if str(overrides["optimizer"]).lower() not in {name.lower() for name in OPTIMIZERS}:
        raise UnknownNameError("optimizer", str(overrides["optimizer"]), OPTIMIZERS)


def read_state(path: Path, job: Mapping[str, Any]) -> dict[str, Any] | None:
    """The state of an unfinished training, if there is one.

    Raises:
        RunFolderError: it is of another job: its weights would silently stand for those asked for.
    """
    if not path.exists():
        return None
    state: dict[str, Any] = torch.load(path, weights_only=True)
    other = [key for key in {**job, **state["job"]} if job.get(key) != state["job"].get(key)]
    if other:
        raise RunFolderError(
            "the folder holds a training of another job", got=f"{path}: {', '.join(other)} differ", fix="another --out"
        )
    return state


def _restore(state: Mapping[str, Any], network: nn.Module) -> Tuned:
    """A training that was killed after its last epoch, before its result was used."""
    network.load_state_dict(state["best_state"])
    curve = list(state["curve"])
    return Tuned(network.float().eval(), state["best_epoch"], max(point["map50_95"] for point in curve), curve)


def _reporter(bar: progress.Task) -> Callable[[PrunedTrainer], None]:
    def report(trainer: PrunedTrainer) -> None:
        last = trainer.curve[-1] if trainer.curve else None
        bar.advance(1, note=f"mAP50-95 {last['map50_95']:.3f}" if last else "")

    return report


def read_curve(folder: Path) -> list[dict[str, float]]:
    """Validated epochs so far."""
    path = folder / "curve.json"
    return list(read_json(path)) if path.exists() else []
