"""The whole job on a tiny network: what it leaves, what it repeats, and what a kill at any stage costs."""

from __future__ import annotations

import json
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.jobs import IMGSZ, TOML, command, finished, make_job
from toolchain import cli, pipeline
from toolchain.config import RunConfig, load_config
from toolchain.device.manifest import verify
from toolchain.errors import AccuracyGateError, RunFolderError
from toolchain.measurement.record import read_records
from toolchain.pruning.plan import PruningPlan
from toolchain.pruning.prune import PruneRequest, prune
from toolchain.report.summary import read_summary
from toolchain.stage import file_sha256
from toolchain.yolo.checkpoint import load_model

STAGES = ["dense", "cut", "tune", "export", "int8", "build", "bench", "profile", "accuracy"]
ENGINES = ["dense", "pruned", "pruned-int8"]


def settings(root: Path, **flags: Any) -> RunConfig:
    return load_config(root / "run.toml", {key.replace("__", "."): value for key, value in flags.items()})


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a job that was done once; never changed."""
    root = tmp_path_factory.mktemp("job")
    make_job(root)
    pipeline.run(settings(root), command="toolchain run run.toml")
    return root


@pytest.fixture
def job(done: Path, tmp_path: Path) -> Path:
    """A copy of the finished job."""
    return Path(shutil.copytree(done, tmp_path / "job"))


def forget(root: Path, stage: str) -> dict[str, int]:
    """Take a stage and all later ones away; what is left."""
    for name in STAGES[STAGES.index(stage) :]:
        shutil.rmtree(root / "run" / "stages" / name)
    for name in ("summary.json", "report.html", "records.jsonl"):
        (root / "run" / name).unlink()
    return finished(root / "run")


def complete(root: Path) -> dict[str, Any]:
    """The summary, once everything a run leaves is there and agrees."""
    run = root / "run"
    assert not list((run / "stages").glob("*.partial-*"))
    summary = read_summary(run).model_dump()
    assert [row["label"] for row in summary["variants"]] == ENGINES
    assert all(row["latency_ms"] > 0 and row["map50_95"] is not None for row in summary["variants"])
    assert "<html" in (run / "report.html").read_text()[:200]
    assert len((run / "records.jsonl").read_text().splitlines()) == 9
    return summary


def test_what_a_run_leaves(done: Path) -> None:
    summary = complete(done)
    assert [s["name"] for s in summary["stages"]] == STAGES
    assert set(finished(done / "run")) == set(STAGES)
    dense, pruned, int8 = summary["variants"]
    assert pruned["params"] < dense["params"]
    assert pruned["gmacs"] <= 0.5 * dense["gmacs"]
    assert int8["params"] == pruned["params"]
    assert dense["params"] == sum(p.numel() for p in load_model(done / "dense.pt").module.parameters())
    assert pruned["params"] == sum(p.numel() for p in load_model(done / "run/stages/tune/tuned.pt").module.parameters())
    assert summary["command"] == "toolchain run run.toml"
    assert [point["epoch"] for point in summary["training"]["curve"]] == [1]


def test_the_records_name_what_they_measured(done: Path) -> None:
    records = read_records(done / "run" / "records.jsonl")
    assert sorted((r.subject, r.kind) for r in records) == sorted(
        (label, kind) for label in ENGINES for kind in ("latency", "accuracy", "size")
    )
    for record in records:
        engine = done / "run" / "stages" / "build" / record.subject / "engine.onnx"
        assert record.subject_sha256 == file_sha256(engine)
        if record.kind == "size":
            assert record.value == engine.stat().st_size
        if record.kind == "latency":
            assert (done / "run" / str(record.samples_path)).exists()
    for label in ENGINES:
        usable = [r.to_json() for r in records if r.subject == label and r.valid]
        assert verify(done / "run" / "stages" / "build" / label).measurements == json.loads(json.dumps(usable))


def test_the_plan_replays_on_the_original_weights(done: Path, tmp_path: Path) -> None:
    prune(done / "dense.pt", tmp_path, PruneRequest(imgsz=IMGSZ), plan_file=done / "run" / "plan.json")
    first, second = (load_model(p).module.state_dict() for p in (tmp_path / "pruned.pt", done / "run/stages/cut/pruned.pt"))
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_a_second_run_repeats_no_stage(job: Path) -> None:
    before = finished(job / "run")
    summary = pipeline.run(settings(job))
    assert finished(job / "run") == before
    assert all(s["reused"] for s in summary["stages"])
    complete(job)


def test_changed_epochs_repeat_the_fine_tune_and_what_follows(job: Path) -> None:
    before = finished(job / "run")
    summary = pipeline.run(settings(job, train__epochs=2))
    after = finished(job / "run")
    assert {name for name in STAGES if after[name] == before[name]} == {"dense", "cut"}
    assert [point["epoch"] for point in summary["training"]["curve"]] == [1, 2]
    complete(job)


def test_changed_rounds_repeat_only_the_benchmark(job: Path) -> None:
    before = finished(job / "run")
    pipeline.run(settings(job, bench__rounds=4))
    after = finished(job / "run")
    assert {name for name in STAGES if after[name] != before[name]} == {"bench"}
    assert read_summary(job / "run").model_dump()["bench"]["rounds"] == 4


@pytest.mark.parametrize(
    "stage", [pytest.param("cut", marks=pytest.mark.slow), "tune", pytest.param("int8", marks=pytest.mark.slow), "bench"]
)
def test_a_kill_at_a_stage_costs_that_stage_alone(stage: str, job: Path) -> None:
    before = forget(job, stage)
    process = command("run", job / "run.toml")
    deadline = time.monotonic() + 120
    while not list((job / "run" / "stages").glob(f"{stage}.partial-*")) and time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert finished(job / "run") == before
    assert not (job / "run" / "summary.json").exists()
    pipeline.run(settings(job))
    after = finished(job / "run")
    assert {name: after[name] for name in before} == before
    complete(job)


def test_two_steps_reach_the_ratio_together_and_are_one_plan(job: Path, tmp_path: Path) -> None:
    before = finished(job / "run")
    config = settings(job, prune__steps=2, prune__step_epochs=1, prune__ratio=0.6)
    work = pipeline.start(config)
    pipeline.dense_stage(work)
    model, plan = pipeline.cut_and_tune(work)
    assert [s.name for s in work.done] == ["dense", "cut-1", "tune-1", "cut-2", "tune"]
    assert finished(job / "run")["dense"] == before["dense"]
    assert model == job / "run" / "stages" / "tune" / "tuned.pt"
    assert plan.asked_ratio == pytest.approx(0.6)
    assert plan.reached.macs >= 0.6
    first, second = (PruningPlan.load(job / "run" / "stages" / f"cut-{i}" / "plan.json") for i in (1, 2))
    assert first.asked_ratio == second.asked_ratio == pytest.approx(1 - 0.4**0.5)
    assert PruningPlan.load(job / "run" / "plan.json") == plan
    prune(job / "dense.pt", tmp_path, PruneRequest(imgsz=IMGSZ), plan_file=job / "run" / "plan.json")
    replayed, tuned = (load_model(p).module.state_dict() for p in (tmp_path / "pruned.pt", model))
    assert {k: v.shape for k, v in replayed.items()} == {k: v.shape for k, v in tuned.items()}
    assert work.macs[1] <= 0.4 * work.macs[0]
    assert work.cut_model == job / "run" / "stages" / "cut-2" / "pruned.pt"


def test_guarded_groups_keep_the_share_that_was_measured_in_every_step(job: Path) -> None:
    flags = {"guard": 0.02, "steps": 2, "step_epochs": 1, "ratio": 0.95}
    work = pipeline.start(settings(job, train__epochs=0, **{f"prune__{key}": value for key, value in flags.items()}))
    _, plan = pipeline.cut_and_tune(work)
    assert [s.name for s in work.done] == ["sensitivity", "cut-1", "tune-1", "cut-2"]
    least = pipeline.guard_stage(work)
    assert work.done[-1].reused
    kept = {g.name: g.width / g.channels for g in plan.groups}
    assert least
    assert all(kept[name] >= share for name, share in least.items())
    assert min(kept[name] for name in least) < 0.5


def test_a_refused_int8_is_reported_with_the_rest_and_fails_the_command(
    job: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = forget(job, "int8")

    def refuse(*_: Any, **__: Any) -> None:
        raise AccuracyGateError("INT8 lost too much", got="0.5 -> 0.1", fix="--keep-float")

    monkeypatch.setattr("toolchain.quantization.gate.check_gate", refuse)
    monkeypatch.setattr("sys.argv", ["toolchain", "run", str(job / "run.toml")])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == AccuracyGateError.exit_code == 8
    text = capsys.readouterr().err
    assert "INT8 lost too much" in text
    assert "--keep-float" in text
    assert "Traceback" not in text
    after = finished(job / "run")
    assert {name: after[name] for name in before} == before
    assert "int8" not in after
    refused = list((job / "run" / "stages").glob("int8.partial-*/refused.json"))
    assert len(refused) == 1
    assert "map50_95" in json.loads(refused[0].read_text())["float"]
    summary = read_summary(job / "run").model_dump()
    assert [row["label"] for row in summary["variants"]] == ENGINES
    last = summary["variants"][-1]
    assert last["latency_ms"] is None
    assert last["why"]["latency_ms"] == "refused by the accuracy gate"
    assert "refused by the accuracy gate" in (job / "run" / "report.html").read_text()
    assert len((job / "run" / "records.jsonl").read_text().splitlines()) == 6


def test_without_fine_tune_and_int8(job: Path) -> None:
    before = finished(job / "run")
    (job / "run.toml").write_text(TOML.replace("epochs = 1", "epochs = 0").replace("max_drop = 1.0", "enabled = false"))
    summary = pipeline.run(settings(job))
    assert [row["label"] for row in summary["variants"]] == ENGINES[:2]
    assert summary["training"] is summary["int8"] is None
    after = finished(job / "run")
    assert (after["dense"], after["cut"]) == (before["dense"], before["cut"])
    read_summary(job / "run")


def test_a_folder_of_another_model_is_refused_and_left_alone(job: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in (job / "run").rglob("*") if p.is_file()}
    other = torch.load(job / "dense.pt", weights_only=False)
    with torch.no_grad():
        next(iter(other["model"].parameters())).add_(1)
    torch.save(other, job / "dense.pt")
    with pytest.raises(RunFolderError, match=r"other inputs\n  got: .*model_sha256 differ\n  try: another --out"):
        pipeline.run(settings(job))
    assert {p: p.stat().st_mtime_ns for p in (job / "run").rglob("*") if p.is_file()} == before


def test_a_changed_label_is_other_data(job: Path) -> None:
    label = job / "data" / "labels" / "train" / "0.txt"
    label.write_text(label.read_text().replace("0.", "0.0", 1))
    with pytest.raises(RunFolderError, match="data_sha256 differ"):
        pipeline.run(settings(job))
