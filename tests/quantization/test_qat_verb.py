"""QAT as the last step of the verb: only where the gate was missed, kept only where it helps, going on after a stop."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch

from toolchain import verbs
from toolchain.config import Int8Section, QatSection
from toolchain.errors import AccuracyGateError, ConfigError, QuantizationError, RunFolderError
from toolchain.stage import file_sha256
from toolchain.verbs import quantizing
from toolchain.yolo import trainer as room

IMGSZ = 64  # of `place`
pytestmark = pytest.mark.usefixtures("one_processor")
QUICK = QatSection(epochs=1, batch=4)
Maps = Callable[[str], float]  # engine's file -> mAP50-95


class StoppedError(Exception):
    pass


def judged_by(maps: Maps, monkeypatch: pytest.MonkeyPatch) -> None:
    def accuracy(engine: Path, out: Path, *, dataset: Any, split: str, **_: Any) -> dict[str, Any]:
        return {"map50_95": maps(engine.name), "images": len(dataset.images(split)), "engine": {}}

    monkeypatch.setattr(quantizing, "engine_accuracy", accuracy)


def helps(name: str) -> float:
    return {"model.onnx": 0.5, "qat.int8.onnx": 0.495}.get(name, 0.4)


def run(place: Path, out: Path, qat: QatSection = QUICK, data: Path | None = None, **keys: Any) -> dict[str, Any]:
    out.mkdir(exist_ok=True)
    return verbs.quantize(
        place / "onnx" / "model.onnx", out, data=data or place / "data" / "data.yaml", imgsz=IMGSZ,
        int8=Int8Section(qat=qat, **keys),
    )  # fmt: skip


def nodes(engine: Path) -> list[tuple[str, str, list[str]]]:
    return [(node.op_type, node.name, list(node.input)) for node in onnx.load(engine).graph.node]


def test_it_trains_where_the_gate_was_missed_and_ships_what_passes(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged_by(helps, monkeypatch)
    plain = run(place, tmp_path / "plain", QatSection(), max_drop=0.2)
    report = run(place, tmp_path / "out")
    qat = report["qat"]
    assert qat["kept"]
    assert report["gate"]["int8_map"] == qat["map50_95"] == 0.495
    assert report["tried"] == ["percentile: 0.4000 on val", "percentile, QAT of 1 epochs: 0.4950 on val"]
    shipped = tmp_path / "out" / "model.int8.onnx"
    assert shipped.read_bytes() == (tmp_path / "out" / "trials" / "qat.int8.onnx").read_bytes()
    assert report["sha256"] == file_sha256(shipped) != plain["sha256"]
    assert [op for op, *_ in nodes(shipped)] == [op for op, *_ in nodes(tmp_path / "plain" / "model.int8.onnx")]
    assert qat["sha256"] == file_sha256(tmp_path / "out" / qat["file"])
    assert qat["agreement"]["gap_rms"] < qat["agreement"]["int8_rms"]
    assert [point["epoch"] for point in qat["curve"]] == [1]
    assert json.loads((tmp_path / "out" / "calibration.json").read_text())["report"]["sha256"] == report["sha256"]


def test_nothing_is_trained_where_the_gate_is_passed(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    judged_by(lambda name: 0.5, monkeypatch)
    assert run(place, tmp_path / "out")["qat"] is None
    assert not (tmp_path / "out" / "qat").exists()


def test_mixed_precision_comes_first(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    judged_by(lambda name: 0.4 if name.startswith("model.int8") else 0.5, monkeypatch)
    report = run(place, tmp_path / "out", mixed=True)
    assert len(report["mixed"]["left_float"]) == 1
    assert report["qat"] is None


def test_what_does_not_help_is_not_kept_and_said(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    judged_by(lambda name: {"model.onnx": 0.5, "qat.int8.onnx": 0.39}.get(name, 0.4), monkeypatch)
    plain = run(place, tmp_path / "plain", QatSection(), max_drop=0.2)
    with pytest.raises(AccuracyGateError, match=r"QAT of 1 epochs: 0\.3900 on val") as caught:
        run(place, tmp_path / "out")
    record = json.loads((tmp_path / "out" / "refused.json").read_text())
    assert not record["qat"]["kept"]
    assert record["int8"]["map50_95"] == 0.4
    assert any("QAT did not help and is not kept" in text for text in record["warnings"])
    assert file_sha256(tmp_path / "out" / "refused.int8.onnx") == record["sha256"] == plain["sha256"]
    assert "--qat-epochs" not in str(caught.value)


def test_a_stopped_training_goes_on_and_one_that_ended_is_not_repeated(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged_by(helps, monkeypatch)
    two, real = QatSection(epochs=2, batch=4), room.PrunedTrainer.save_model

    def stop(self: Any) -> bool:
        real(self)
        raise StoppedError

    with monkeypatch.context() as patch:
        patch.setattr(room.PrunedTrainer, "save_model", stop)
        with pytest.raises(StoppedError):
            run(place, tmp_path / "out", two)
    state = torch.load(tmp_path / "out" / "qat" / room.STATE, weights_only=True)
    assert state["epoch"] == 0
    started, model_train = list[tuple[int, bool]](), room.PrunedTrainer._model_train

    def look(self: Any) -> None:
        started.append((self.epoch, all(torch.equal(v, state["model"][k]) for k, v in self.model.state_dict().items())))
        model_train(self)

    with monkeypatch.context() as patch:
        patch.setattr(room.PrunedTrainer, "_model_train", look)
        first = run(place, tmp_path / "out", two)
    assert started == [(1, True)]
    with monkeypatch.context() as patch:
        patch.setattr(room.PrunedTrainer, "train", lambda self: pytest.fail("trained again"))
        assert run(place, tmp_path / "out", two)["sha256"] == first["sha256"]
    with pytest.raises(RunFolderError, match="another job"):
        run(place, tmp_path / "out", QatSection(epochs=2, batch=4, lr0=1e-5))


def test_without_distillation_no_teacher_is_made(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    judged_by(helps, monkeypatch)
    monkeypatch.setattr(room, "make_teacher", lambda *_: pytest.fail("a teacher was made"))
    alone = QatSection(**{**QUICK.model_dump(), "distill": {"scores": 0.0, "boxes": 0.0}})
    assert run(place, tmp_path / "out", alone)["qat"]["kept"]


def test_what_cannot_be_is_refused_before_anything_is_done(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    judged_by(helps, monkeypatch)
    with pytest.raises(ConfigError, match="CUDA"):
        run(place, tmp_path / "out", QatSection(epochs=1, device="7"))
    assert not list((tmp_path / "out").iterdir())
    other = place / "data" / "other.yaml"
    other.write_text((place / "data" / "data.yaml").read_text() + "  3: grey\n")
    with pytest.raises(QuantizationError, match="3 classes in the graph, 4 in the data"):
        run(place, tmp_path / "out", data=other)


@pytest.mark.slow
def test_the_engines_really_run(place: Path, tmp_path: Path) -> None:
    """Whatever the maps are, what is shipped or refused is the better of the two, by the engines' own outputs."""
    try:
        report = run(place, tmp_path / "out", QatSection(epochs=2, batch=4), recipe="minmax", max_drop=0.0)
    except AccuracyGateError:
        report = json.loads((tmp_path / "out" / "refused.json").read_text())
    if report["qat"] is not None:
        maps = [float(text.split(": ")[1].split()[0]) for text in report["tried"]]
        assert report["int8"]["map50_95"] == pytest.approx(max(maps), abs=1e-4)
