"""What is spread out gives what it gives in one process: sensitivity and fine-tunes, on every executor."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tests.helpers import NAMES, live_model, tiny_dataset
from toolchain import verbs
from toolchain.cli import app
from toolchain.config import TrainSection
from toolchain.errors import DataError, TaskError, UsageError
from toolchain.executor.registry import Scale, make_executor
from toolchain.pruning import sensitivity as room
from toolchain.pruning.sensitivity import FILE, effect_of, sensitivity
from toolchain.yolo.checkpoint import save_checkpoint

IMGSZ = 64
QUICK = TrainSection(epochs=1, batch=2, val_every=1, close_mosaic=0, warmup_epochs=0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two networks, `a.pt` and `b.pt`, and a data set in `data`."""
    root = tmp_path_factory.mktemp("scale")
    for seed, name in enumerate(("a", "b")):
        save_checkpoint(root / f"{name}.pt", live_model(seed=seed), names=NAMES, train_args={"imgsz": IMGSZ}, extra={})
    tiny_dataset(root / "data", {"train": 4, "val": 2}, size=(IMGSZ, IMGSZ))
    return root


@pytest.fixture(scope="module")
def job(folder: Path) -> dict[str, Any]:
    return {
        "model": folder / "a.pt",
        "data": folder / "data" / "data.yaml",
        "imgsz": IMGSZ,
        "criterion": "l1",
        "ratios": (0.5,),
        "images": 3,
    }


@pytest.fixture(scope="module")
def alone(job: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return sensitivity(out=tmp_path_factory.mktemp("alone"), **job)


def same(found: dict[str, Any], expected: dict[str, Any]) -> None:
    """All rows, but for the last digits of their numbers."""
    assert found["job"] == expected["job"]
    assert len(found["rows"]) == len(expected["rows"]) > 5
    for mine, other in zip(found["rows"], expected["rows"], strict=True):
        assert mine == pytest.approx(other, abs=1e-5)


def scale(name: str, request: pytest.FixtureRequest) -> Scale:
    return Scale(name, 2, request.getfixturevalue("cluster").address if name == "ray" else None)


@pytest.mark.parametrize("name", [pytest.param("processes", marks=pytest.mark.slow), "ray"])
def test_sensitivity_is_the_same_wherever_it_is_measured(
    name: str, request: pytest.FixtureRequest, job: dict[str, Any], alone: dict[str, Any], tmp_path: Path
) -> None:
    """And it goes on after a stop: lines that are there are kept as they are."""
    executor = make_executor(scale(name, request))
    same(sensitivity(out=tmp_path, executor=executor, **job), alone)
    lines = (tmp_path / FILE).read_text().splitlines(keepends=True)
    assert len(lines) == len(alone["rows"])
    kept = [json.dumps({**json.loads(line), "loss_rise": 7.0}) + "\n" for line in lines[:-1]]
    (tmp_path / FILE).write_text("".join(kept))
    rows = sensitivity(out=tmp_path, executor=make_executor(Scale()), **job)["rows"]
    assert [row["loss_rise"] == 7.0 for row in rows].count(False) == 1


def test_a_model_that_fails_somewhere_keeps_what_is_done(
    job: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = room.measure, list[int]()

    def measure(*args: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            raise DataError("a picture is gone", got="it")
        return real(*args)

    monkeypatch.setattr(room, "measure", measure)
    with pytest.raises(TaskError, match=r"at \d+ channels: DataError on .*a picture is gone"):
        sensitivity(out=tmp_path, **job)
    done = len((tmp_path / FILE).read_text().splitlines())
    assert done == len(calls) - 2  # but for the uncut network and the one that failed
    calls[:] = [1] * 5
    result = sensitivity(out=tmp_path, **job)
    assert len(calls) == 5 + 2
    assert len(result["rows"]) == done + 1


def test_another_data_set_at_the_same_path_is_noticed(job: dict[str, Any], folder: Path, tmp_path: Path) -> None:
    at = room.load(job["model"], job["data"], IMGSZ, 3, 0)
    shutil.copytree(folder / "data", tmp_path / "data")
    (tmp_path / "data" / "labels" / "train" / "0.txt").write_text("0 0.5 0.5 0.1 0.1\n")
    with pytest.raises(DataError, match=r"holds something else here\n.*data differs"):
        effect_of(job["model"], tmp_path / "data" / "data.yaml", tmp_path, plan={}, about=at.about)


def test_networks_are_tuned_in_folders_of_their_own(folder: Path, tmp_path: Path) -> None:
    """By processes, and once."""
    models = {"one": folder / "a.pt", "two": folder / "b.pt"}
    options: dict[str, Any] = {
        "data": folder / "data" / "data.yaml",
        "imgsz": IMGSZ,
        "train": QUICK,
        "scale": Scale("processes", 2),
    }
    found = verbs.finetune_all(models, tmp_path, **options)
    assert list(found) == ["one", "two"]
    assert found["one"]["curve"] != found["two"]["curve"]
    for name, result in found.items():
        assert json.loads((tmp_path / name / "stage.json").read_text())["result"] == result
        assert (tmp_path / name / "tuned.pt").is_file()
    stamps = {name: (tmp_path / name / "tuned.pt").stat().st_mtime_ns for name in found}
    again = verbs.finetune_all(models, tmp_path, **options)
    assert again == found
    assert {name: (tmp_path / name / "tuned.pt").stat().st_mtime_ns for name in found} == stamps


def test_one_bad_network_does_not_cost_the_others(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.pt").write_text("no network")
    models = {"bad": tmp_path / "bad.pt", "good": folder / "a.pt"}
    with pytest.raises(TaskError, match=r"1 of 2 tasks failed\n.*bad: CheckpointError"):
        verbs.finetune_all(models, tmp_path / "out", data=folder / "data" / "data.yaml", imgsz=IMGSZ, train=QUICK)
    assert (tmp_path / "out" / "good" / "tuned.pt").is_file()
    assert not (tmp_path / "out" / "bad").exists()


@pytest.mark.parametrize("name", ["../up", "a/b", ".hidden", ""])
def test_a_name_must_be_one_of_a_folder(folder: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="not a name for a folder"):
        verbs.finetune_all({name: folder / "a.pt"}, tmp_path, data=folder / "data" / "data.yaml", imgsz=IMGSZ, train=QUICK)


def test_the_command_tunes_several(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}

    def finetune_all(models: Any, out: Path, **options: Any) -> dict[str, Any]:
        seen.update(models=models, out=out, **options)
        return {name: {"best_map50_95": 0.5} for name in models}

    monkeypatch.setattr(verbs, "finetune_all", finetune_all)
    words = ["finetune", "x=a/pruned.pt", "b.pt", "--data", "d.yaml", "--out", str(tmp_path), "--executor", "ray",
             "--workers", "3", "--ray-address", "10.0.0.1:6379", "--json"]  # fmt: skip
    done = CliRunner().invoke(app, words, catch_exceptions=False)
    assert json.loads(done.stdout) == {"x": {"best_map50_95": 0.5}, "b": {"best_map50_95": 0.5}}
    assert seen["models"] == {"x": Path("a/pruned.pt"), "b": Path("b.pt")}
    assert seen["scale"] == Scale("ray", 3, "10.0.0.1:6379")
