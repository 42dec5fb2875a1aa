"""Training keeps the network it was given, goes on after a kill, and learns from the teacher alone when it should."""

from __future__ import annotations

import copy
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.helpers import NAMES, live_model, tiny_dataset, tiny_model
from toolchain.errors import ConfigError, DataError, RunFolderError, TrainingError, UnknownNameError
from toolchain.pruning.prune import PruneRequest, prune
from toolchain.yolo import trainer as room
from toolchain.yolo.checkpoint import load_model, save_checkpoint
from toolchain.yolo.dataset import load_dataset
from toolchain.yolo.distill import DistilledLoss, DistillWeights, box_loss, score_loss
from toolchain.yolo.finetune import finetune, list_data
from toolchain.yolo.loss import labelled_batches
from toolchain.yolo.teacher import make_teacher
from toolchain.yolo.trainer import STATE, TrainSettings, fine_tune, read_curve

IMGSZ = 64
QUICK = TrainSettings(epochs=2, batch=2, val_every=1, close_mosaic=0, warmup_epochs=0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`dense.pt`, its cut `pruned.pt`, and `data/data.yaml` with 4 pictures to learn and 2 to judge."""
    root = tmp_path_factory.mktemp("train")
    save_checkpoint(root / "dense.pt", live_model(), names=NAMES, train_args={"imgsz": IMGSZ}, extra={})
    tiny_dataset(root / "data", {"train": 4, "val": 2}, size=(IMGSZ, IMGSZ))
    prune(root / "dense.pt", root, PruneRequest(imgsz=IMGSZ, ratio=0.5, criterion="l1"))
    return root


def tuned(folder: Path, out: Path, settings: TrainSettings = QUICK, **more: Any) -> dict[str, Any]:
    out.mkdir(exist_ok=True)
    options = {"data": folder / "data" / "data.yaml", "imgsz": IMGSZ, "teacher": folder / "dense.pt", **more}
    return finetune(
        more.pop("model", folder / "pruned.pt"), out, settings=settings, **{k: v for k, v in options.items() if k != "model"}
    )


def size(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.fixture(scope="module")
def trained(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], list[dict[str, Any]]]:
    """Two epochs: the folder, the result, and what was seen at the end of each epoch."""
    out, seen = tmp_path_factory.mktemp("tuned"), list[dict[str, Any]]()
    with pytest.MonkeyPatch.context() as patch:
        real = room.PrunedTrainer.save_model

        def look(self: Any) -> bool:
            seen.append({
                "model": size(self.model), "ema": size(self.ema.ema), "criterion": type(self.model.criterion),
                "dtypes": {v.dtype for v in self.ema.ema.state_dict().values() if v.is_floating_point()},
                "kd": float(self.loss_items["kd_scores"]), "moved": self.model.state_dict()["model.0.conv.weight"].clone(),
            })  # fmt: skip
            return bool(real(self))

        patch.setattr(room.PrunedTrainer, "save_model", look)
        result = tuned(folder, out)
    return out, result, seen


def test_the_network_keeps_its_size_before_during_and_after(folder: Path, trained: tuple[Path, dict[str, Any], Any]) -> None:
    out, result, seen = trained
    expected = size(load_model(folder / "pruned.pt").module)
    assert expected < size(load_model(folder / "dense.pt").module)
    assert [entry["model"] for entry in seen] == [entry["ema"] for entry in seen] == [expected] * 2
    assert result["parameters"] == expected == size(load_model(out / "tuned.pt").module)


def test_it_learns_with_distillation_and_a_float32_average(folder: Path, trained: tuple[Path, dict[str, Any], Any]) -> None:
    out, result, seen = trained
    assert result["distilled"]
    assert all(entry["criterion"] is DistilledLoss and entry["kd"] > 0 for entry in seen)
    assert all(entry["dtypes"] == {torch.float32} for entry in seen)
    assert not torch.equal(seen[0]["moved"], seen[1]["moved"])
    before, after = load_model(folder / "pruned.pt").module.state_dict(), load_model(out / "tuned.pt").module.state_dict()
    assert not torch.equal(before["model.0.conv.weight"], after["model.0.conv.weight"])


def test_the_curve_and_the_best_epoch(trained: tuple[Path, dict[str, Any], Any]) -> None:
    out, result, _ = trained
    assert [point["epoch"] for point in result["curve"]] == [1, 2]
    assert read_curve(out) == result["curve"]
    assert result["best_map50_95"] == max(point["map50_95"] for point in result["curve"])
    assert result["best_epoch"] in (1, 2)
    assert read_curve(out / "none") == []


def test_plain_ultralytics_loads_the_tuned_network(folder: Path, trained: tuple[Path, dict[str, Any], Any]) -> None:
    script = (
        "import sys; sys.modules['toolchain'] = None\n"
        "from ultralytics import YOLO\n"
        "model = YOLO(sys.argv[1]); found = model.predict(sys.argv[2], imgsz=64, save=False, verbose=False)\n"
        "print('RESULT', len(found), sum(p.numel() for p in model.model.parameters()), model.names[2])\n"
    )
    picture = folder / "data" / "images" / "val" / "0.png"
    env = {**os.environ, "YOLO_OFFLINE": "1", "YOLO_AUTOINSTALL": "0"}
    done = subprocess.run([sys.executable, "-I", "-c", script, trained[0] / "tuned.pt", picture], capture_output=True, text=True,
                          timeout=300, env=env, cwd=folder, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split("RESULT")[1].split() == ["1", str(trained[1]["parameters"]), "blue"]


def test_it_trains_on_the_pictures_that_were_checked(folder: Path, trained: tuple[Path, dict[str, Any], Any]) -> None:
    listed = (trained[0] / "train.txt").read_text().split()
    assert listed == [str(p.resolve()) for p in load_dataset(folder / "data" / "data.yaml").images("train")]


def test_a_network_swapped_for_another_size_is_noticed(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ultralytics' own trainer rebuilds from YAML: the pruned network silently becomes the full one."""

    def rebuild(self: Any) -> None:
        self.model = tiny_model()
        self.model.args = self.args

    monkeypatch.setattr(room.PrunedTrainer, "setup_model", rebuild)
    with pytest.raises(TrainingError, match="the model is no longer the pruned network"):
        tuned(folder, tmp_path)


def test_a_wrong_moving_average_is_noticed(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = room.PrunedTrainer._attach_loss

    def attach(self: Any) -> None:
        real(self)
        self.ema.ema, self.ema.update = tiny_model(), lambda model: None

    monkeypatch.setattr(room.PrunedTrainer, "_attach_loss", attach)
    with pytest.raises(TrainingError, match="the moving average is no longer"):
        tuned(folder, tmp_path)


class StoppedError(Exception):
    pass


def stopped_after(epoch: int, folder: Path, out: Path, settings: TrainSettings = QUICK) -> dict[str, Any]:
    """A training that ends right after an epoch was saved; its state."""
    real = room.PrunedTrainer.save_model

    def save(self: Any) -> bool:
        saved = bool(real(self))
        if self.epoch + 1 == epoch:
            raise StoppedError
        return saved

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(room.PrunedTrainer, "save_model", save)
        with pytest.raises(StoppedError):
            tuned(folder, out, settings)
    state: dict[str, Any] = torch.load(out / STATE, weights_only=True)
    return state


def test_a_stopped_training_goes_on_after_its_last_whole_epoch(folder: Path, tmp_path: Path) -> None:
    first = stopped_after(1, folder, tmp_path)
    assert first["epoch"] == 0
    started: list[tuple[int, bool, int]] = []
    with pytest.MonkeyPatch.context() as patch:
        real = room.PrunedTrainer._model_train

        def look(self: Any) -> None:
            same = all(torch.equal(v, first["model"][k]) for k, v in self.model.state_dict().items())
            started.append((self.epoch, same, self.ema.updates))
            real(self)

        patch.setattr(room.PrunedTrainer, "_model_train", look)
        result = tuned(folder, tmp_path)
    assert started == [(1, True, first["updates"])]
    assert [point["epoch"] for point in result["curve"]] == [1, 2]
    assert result["curve"][0] == first["curve"][0]


def test_a_training_stopped_after_its_last_epoch_is_not_repeated(folder: Path, tmp_path: Path) -> None:
    state = stopped_after(2, folder, tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(room.PrunedTrainer, "train", lambda self: pytest.fail("trained again"))
        result = tuned(folder, tmp_path)
    assert result["curve"] == state["curve"]
    saved = load_model(tmp_path / "tuned.pt").module.state_dict()
    assert all(torch.equal(saved[key], value) for key, value in state["best_state"].items())


KILLED = """
import sys, json
from pathlib import Path
from tests.yolo.test_trainer import QUICK, tuned
from dataclasses import replace
tuned(Path(sys.argv[1]), Path(sys.argv[2]), replace(QUICK, epochs=40))
"""


def test_a_killed_process_loses_at_most_the_epoch_under_way(folder: Path, tmp_path: Path) -> None:
    state = tmp_path / "out" / STATE
    with subprocess.Popen([sys.executable, "-c", KILLED, folder, tmp_path / "out"], stdout=subprocess.DEVNULL,
                          stderr=subprocess.PIPE, cwd=Path(__file__).parents[2]) as process:  # fmt: skip
        deadline = time.monotonic() + 120
        while not state.exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        _, text = process.communicate()
    assert state.exists(), text.decode()[-2000:]
    done = torch.load(state, weights_only=True)["epoch"] + 1
    assert done < 40
    stopped_after(done + 1, folder, tmp_path / "out", replace(QUICK, epochs=40))
    assert [p["epoch"] for p in json.loads((tmp_path / "out" / "curve.json").read_text())] == list(range(1, done + 2))


@pytest.mark.parametrize("change", ["settings", "model", "teacher"])
def test_the_training_of_another_job_is_refused_not_continued(
    folder: Path, trained: tuple[Path, dict[str, Any], Any], change: str
) -> None:
    out = trained[0]
    before = (out / "tuned.pt").read_bytes()
    more: dict[str, Any] = {
        "settings": {"settings": replace(QUICK, lr0=5e-4)},
        "model": {"model": folder / "dense.pt"},
        "teacher": {"teacher": None},
    }[change]
    with pytest.raises(RunFolderError, match=r"another job\n  got: .*differ\n  try: another --out"):
        tuned(folder, out, **more)
    assert (out / "tuned.pt").read_bytes() == before


def test_it_stops_early_when_nothing_gets_better_and_stays_stopped(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, found = replace(QUICK, epochs=9, patience=2), iter([0.2, 0.3, 0.3, 0.1])

    def validate(self: Any) -> tuple[dict[str, float], float]:
        value = next(found)
        return {"metrics/mAP50(B)": value, "metrics/mAP50-95(B)": value}, value

    monkeypatch.setattr(room.DetectionTrainer, "validate", validate)
    result = tuned(folder, tmp_path, settings)
    assert [point["epoch"] for point in result["curve"]] == [1, 2, 3, 4]
    assert (result["best_epoch"], result["best_map50_95"]) == (3, 0.3)  # of two equal ones the later, trained longer
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(room.PrunedTrainer, "train", lambda self: pytest.fail("trained again"))
        assert tuned(folder, tmp_path, settings)["curve"] == result["curve"]


def test_validation_every_few_epochs_and_at_the_end(folder: Path, tmp_path: Path) -> None:
    result = tuned(folder, tmp_path, replace(QUICK, epochs=3, val_every=2))
    assert [point["epoch"] for point in result["curve"]] == [2, 3]


def test_without_a_teacher_it_is_plain_fine_tuning(folder: Path, tmp_path: Path) -> None:
    one = replace(QUICK, epochs=1)
    assert not tuned(folder, tmp_path / "a", one, teacher=None)["distilled"]
    assert not tuned(folder, tmp_path / "b", replace(one, distill=DistillWeights(0, 0)))["distilled"]
    first, second = (load_model(tmp_path / x / "tuned.pt").module.state_dict() for x in "ab")
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_a_loss_that_is_no_number_ends_the_training(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = room.PrunedTrainer.preprocess_batch
    monkeypatch.setattr(room.PrunedTrainer, "preprocess_batch",
                        lambda self, batch: {**real(self, batch), "img": batch["img"] * float("nan")})  # fmt: skip
    with pytest.raises(TrainingError, match=r"loss is not finite\n  got: nan in epoch 1\n  try: .*lr0"):
        tuned(folder, tmp_path)


@pytest.mark.parametrize(
    ("settings", "error", "why"),
    [
        (replace(QUICK, epochs=0), ConfigError, "epochs below 1"),
        (replace(QUICK, extra={"mixupp": 0.1}), ConfigError, "mixup"),
        (replace(QUICK, extra={"mixup": "lots"}), ConfigError, "mixup"),
        (replace(QUICK, optimizer="AdamX"), UnknownNameError, "did you mean Adam"),
        (replace(QUICK, device="7"), ConfigError, "CUDA"),
    ],
)
def test_settings_that_cannot_be_are_refused_before_anything_is_written(
    folder: Path, tmp_path: Path, settings: TrainSettings, error: type[Exception], why: str
) -> None:
    network, data = load_model(folder / "pruned.pt").module, folder / "data" / "data.yaml"
    with pytest.raises(error, match=why):
        fine_tune(network, data, IMGSZ, tmp_path / "never", settings)
    assert not (tmp_path / "never").exists()


def test_a_teacher_of_other_classes_is_refused(folder: Path, tmp_path: Path) -> None:
    other = {0: "red", 1: "blue", 2: "green"}
    save_checkpoint(tmp_path / "teacher.pt", live_model(), names=other, train_args={}, extra={})
    with pytest.raises(TrainingError, match="other classes"):
        tuned(folder, tmp_path / "out", teacher=tmp_path / "teacher.pt")


def test_data_of_other_classes_is_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "data.yaml").write_text(f"path: {folder / 'data'}\ntrain: images/train\nval: images/val\nnames: [a]\n")
    with pytest.raises(DataError, match="classes"):
        tuned(folder, tmp_path / "out", data=tmp_path / "data.yaml")


def test_data_without_val_is_judged_on_train(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "data.yaml").write_text(f"path: {folder / 'data'}\ntrain: images/train\nnames: [red, green, blue]\n")
    text = list_data(load_dataset(tmp_path / "data.yaml"), tmp_path).read_text()
    assert "val: train.txt" in text


# --- distillation ----------------------------------------------------------------------------------------------------------


def heads(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    make = torch.Generator().manual_seed(seed)
    return torch.randn(2, 64, 5, generator=make), torch.randn(2, 3, 5, generator=make)


def test_the_terms_are_zero_for_equal_heads_and_positive_otherwise() -> None:
    boxes, scores = heads(0)
    others, opinions = heads(1)
    assert float(score_loss(scores, scores)) == pytest.approx(0, abs=1e-6)
    assert float(box_loss(boxes, boxes, scores, 16)) == pytest.approx(0, abs=1e-6)
    assert float(score_loss(opinions, scores)) > 0.01
    assert float(box_loss(others, boxes, scores, 16)) > 0.01


def test_the_terms_by_hand() -> None:
    teacher, student = torch.tensor([[[0.0], [2.0]]]), torch.tensor([[[1.0], [2.0]]])
    p, q = torch.sigmoid(torch.tensor([0.0, 1.0]))
    kl = p * torch.log(p / q) + (1 - p) * torch.log((1 - p) / (1 - q))
    assert float(score_loss(student, teacher)) == pytest.approx(
        float(kl), rel=1e-5
    )  # the teacher's mass is below 1: divided by 1
    logits = torch.zeros(1, 8, 1)
    shifted = logits.clone()
    shifted[0, 0] = 1.0  # first bin of the first side
    side = float(torch.log((1 + torch.e * torch.ones(1)) / 2) - 0.5)
    weight = float(torch.sigmoid(torch.tensor(2.0)))
    assert float(box_loss(shifted, logits, teacher, 2)) == pytest.approx(side / 4 * weight, rel=1e-5)


def criterion(student: Any, teacher: Any, weights: DistillWeights) -> DistilledLoss:
    from ultralytics.cfg import get_cfg

    student.args = get_cfg()
    return DistilledLoss(student.init_criterion(), make_teacher(teacher, torch.device("cpu")), weights, 16)


def pictures(folder: Path) -> dict[str, Any]:
    return next(labelled_batches(load_dataset(folder / "data" / "data.yaml"), "train", range(2), IMGSZ, 2))


def test_a_student_like_its_teacher_pays_nothing_for_distillation(folder: Path) -> None:
    student, seen = live_model(), pictures(folder)
    loss = criterion(student, copy.deepcopy(student), DistillWeights(1, 1))
    _, items = loss(student(seen["img"])[1], seen)
    assert {key: float(value) for key, value in items.items() if key.startswith("kd_")} == pytest.approx(
        {"kd_scores": 0, "kd_boxes": 0}, abs=1e-4
    )


def test_gradients_reach_the_student_only(folder: Path) -> None:
    student, teacher, seen = live_model(seed=1), live_model(), pictures(folder)
    loss = criterion(student, teacher, DistillWeights(1, 1))
    total, items = loss(student(seen["img"])[1], seen)
    assert min(float(items[key]) for key in ("kd_scores", "kd_boxes")) > 0
    total.sum().backward()
    assert all(p.grad is None for p in teacher.parameters())
    with_grad = [n for n, p in student.named_parameters() if p.grad is not None and float(p.grad.abs().sum()) > 0]
    assert {"model.0.conv.weight", "model.10.cv3.1.2.bias", "model.10.cv2.0.2.bias"} <= set(with_grad)


def test_the_total_is_the_detection_loss_plus_the_weighted_terms(folder: Path) -> None:
    student, teacher, seen = live_model(seed=1), live_model(), pictures(folder)
    raw = student(seen["img"])[1]
    plain = float(criterion(student, teacher, DistillWeights(0, 0)).detection(raw, seen)[0].sum())
    found = {w: criterion(student, teacher, DistillWeights(w, 0))(raw, seen) for w in (1.0, 3.0)}
    for weight, (total, items) in found.items():
        extra = float(items["kd_scores"]) * 2  # two pictures
        assert float(total.sum()) == pytest.approx(plain + extra, rel=1e-4)
        assert float(items["kd_boxes"]) == 0
        assert weight * float(found[1.0][1]["kd_scores"]) == pytest.approx(float(items["kd_scores"]), rel=1e-5)


def test_the_teacher_stays_as_it_is(folder: Path) -> None:
    student, teacher, seen = live_model(seed=1), live_model().train(), pictures(folder)
    before = {key: value.clone() for key, value in teacher.state_dict().items()}
    criterion(student, teacher, DistillWeights())(student(seen["img"])[1], seen)
    assert teacher.training
    assert all(torch.equal(before[key], value) for key, value in teacher.state_dict().items())
