"""Every mistake a user can make ends in its exit code, one message that names the thing and a next step, and no traceback."""

from __future__ import annotations

import errno
import json
import os
import pickle
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from tests.helpers import NAMES, live_model, tiny_model
from tests.jobs import TOML, command, finished, make_job
from toolchain import cli, stage
from toolchain.yolo.checkpoint import save_checkpoint


class Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("echo boom",)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A good job, and files that are wrong each in its own way."""
    root = tmp_path_factory.mktemp("made")
    make_job(root)
    (root / "truncated.pt").write_bytes((root / "dense.pt").read_bytes()[:20_000])
    (root / "empty.pt").write_bytes(b"")
    (root / "bomb.pt").write_bytes(pickle.dumps({"model": Bomb()}))
    (root / "text.onnx").write_text("not onnx")
    (root / "empty.npz").write_bytes(b"")
    save_checkpoint(root / "two.pt", tiny_model(nc=2), names={0: "red", 1: "green"}, train_args={}, extra={})
    return root


@pytest.fixture
def job(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of its own, the working folder."""
    root = tmp_path / "job"
    shutil.copytree(made, root)
    monkeypatch.chdir(root)
    return root


def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, line: str) -> tuple[int, str, str]:
    """Exit code, stdout, stderr of `toolchain LINE` in this process."""
    monkeypatch.setattr("sys.argv", ["toolchain", *line.split()])
    capsys.readouterr()
    try:
        cli.main()
        code = 0
    except SystemExit as stopped:
        code = int(stopped.code or 0)
    out, err = capsys.readouterr()
    return code, out, err


Run = Callable[[str], tuple[int, str, str]]


@pytest.fixture
def toolchain(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    return lambda line: run(capsys, monkeypatch, line)


def message(answer: tuple[int, str, str], code: int, *parts: str) -> str:
    """The text of an error after checking its form."""
    found, out, err = answer
    assert found == code, err
    assert "Traceback" not in out + err
    assert "error:" in err
    text = err[err.index("error:") :]
    assert "\n\n" not in text.strip(), "one paragraph"
    assert all(part in text for part in parts), text
    assert "\n  try: " in text, text
    assert "boom" not in out + err
    return text


def classifier(root: Path) -> None:
    from ultralytics.nn.tasks import ClassificationModel

    network = ClassificationModel("yolov8n-cls.yaml", nc=3, verbose=False)
    torch.save({"model": network, "train_args": {}}, root / "classifier.pt")


def relabel(text: str) -> Callable[[Path], Any]:
    return lambda root: (root / "data" / "labels" / "train" / "0.txt").write_text(text)


def replace_data(text: str) -> Callable[[Path], Any]:
    return lambda root: (root / "data" / "data.yaml").write_text(text)


def no_change(root: Path) -> None:
    pass


def empty_images(root: Path) -> None:
    for picture in (root / "data" / "images" / "train").iterdir():
        picture.unlink()


def broken_image(root: Path) -> None:
    (root / "data" / "images" / "train" / "0.png").write_bytes(b"\x89PNG nothing more")


def thin_image(root: Path) -> None:
    cv2.imwrite(str(root / "data" / "images" / "train" / "0.png"), np.zeros((1, 4000, 3), np.uint8))


PRUNE = "prune dense.pt --imgsz 64 --data data/data.yaml --out out"
CASES: dict[str, tuple[Callable[[Path], Any], str, int, tuple[str, ...]]] = {
    # what is done to the good job, the command, the exit code, what the message holds
    "missing model": (no_change, "prune none.pt --imgsz 64 --criterion l1", 3, ("not found", "none.pt")),
    "truncated model": (no_change, "prune truncated.pt --imgsz 64 --criterion l1", 3, ("truncated.pt",)),
    "empty model": (no_change, "prune empty.pt --imgsz 64 --criterion l1", 3, ("empty.pt",)),
    "pickle bomb": (no_change, "prune bomb.pt --imgsz 64 --criterion l1", 3, ("bomb.pt", "system")),
    "classification model": (classifier, "prune classifier.pt --imgsz 64 --criterion l1", 3, ("classifier.pt", "detection")),
    "folder as model": (no_change, "prune data --imgsz 64 --criterion l1", 3, ("data",)),
    "missing data": (no_change, "prune dense.pt --imgsz 64 --data none.yaml", 4, ("none.yaml",)),
    "data without pictures": (replace_data("train: nowhere\nval: nowhere\nnames: [a, b, c]\n"), PRUNE, 4, ("nowhere", "train")),
    "data that is no YAML": (replace_data("train: [\n"), PRUNE, 4, ("data.yaml",)),
    "other class count": (no_change, "prune two.pt --imgsz 64 --data data/data.yaml", 4, ("3 classes", "model: 2")),
    "class names in another order": (
        replace_data("train: images/train\nval: images/val\nnames: [green, red, blue]\n"), PRUNE, 4, ("order", "green, red")),
    "no pictures": (empty_images, PRUNE, 4, ("train",)),
    "broken picture": (broken_image, PRUNE, 4, ("0.png",)),
    "label of an unknown class": (relabel("7 0.5 0.5 0.1 0.1\n"), PRUNE, 4, ("0.txt:1", "class id 7", "0..2")),
    "label outside the picture": (relabel("0 0.5 0.5 0.1 0.1\n0 5 5 1 1\n"), PRUNE, 4, ("0.txt:2", "outside 0..1")),
    "label with words": (relabel("red 0.5 0.5 0.1 0.1\n"), PRUNE, 4, ("0.txt:1", "red")),
    "label with missing columns": (relabel("0 0.5 0.5\n"), PRUNE, 4, ("0.txt:1", "3 columns")),
    "ratio 1.0": (no_change, PRUNE + " --ratio 1.0", 2, ("outside [0, 1)", "1.0", "0.3 removes 30 %")),
    "negative ratio": (no_change, PRUNE + " --ratio -0.5", 2, ("outside [0, 1)", "-0.5")),
    "unknown layer": (no_change, PRUNE + " --strategy per-layer --layer model.33=0.5", 2,
                      ("model.33", "did you mean", "model.3")),
    "layer without a number": (no_change, PRUNE + " --strategy per-layer --layer model.3", 2, ("NAME=NUMBER", "model.3")),
    "layer with another strategy": (no_change, PRUNE + " --strategy flops --layer model.3=0.5", 2, ("per-layer", "flops")),
    "unknown criterion": (no_change, PRUNE + " --criterion fischer", 2, ("fischer", "did you mean fisher")),
    "unknown strategy": (no_change, PRUNE + " --strategy unifrom", 2, ("unifrom", "did you mean uniform")),
    "unknown target": (no_change, PRUNE + " --target host-cpuu", 2, ("host-cpuu", "did you mean host-cpu")),
    "criterion that needs data": (no_change, "prune dense.pt --imgsz 64 --out out", 5, ("training images", "--data")),
    "imgsz off the stride": (no_change, "prune dense.pt --imgsz 100 --criterion l1", 2, ("stride 16", "100", "--imgsz 96")),
    "imgsz below the stride": (no_change, "prune dense.pt --imgsz 8 --criterion l1", 2, ("--imgsz 16",)),
    "nothing to prune": (no_change, PRUNE + " --ratio 0.0 --criterion l1", 5, ("no channel", "ratio 0")),
    "missing plan": (no_change, PRUNE + " --plan none.json", 5, ("none.json",)),
    "plan that is none": (no_change, PRUNE + " --plan run.toml", 5, ("run.toml",)),
    "guard that is none": (no_change, PRUNE + " --guard run.toml", 2, ("run.toml", "sensitivity.json")),
    "guard that is missing": (no_change, PRUNE + " --guard none.json", 2, ("none.json",)),
    "layers file with names unquoted": (
        lambda root: (root / "layers.toml").write_text("model.3 = 0.5\n"), PRUNE + " --strategy per-layer --layers layers.toml",
        2,
        ("layers.toml", '"model.4.cv1" = 0.3')),
    "out is a file": (lambda root: (root / "out").write_text(""), PRUNE + " --criterion l1", 11, ("out",)),
    "no right to write": (no_change, "prune dense.pt --imgsz 64 --criterion l1 --out /proc/out", 11, ("/proc/out",)),
    "unknown training key": (
        no_change, "finetune dense.pt --data data/data.yaml --imgsz 64 --out out --set mixupp=0.1", 2, ("mixup",)),
    "training key without value": (
        no_change, "finetune dense.pt --data data/data.yaml --imgsz 64 --out out --set mixup", 2, ("NAME=VALUE",)),
    "unknown optimizer": (
        no_change, "finetune dense.pt --data data/data.yaml --imgsz 64 --out out --optimizer AdamX", 2,
        ("AdamX", "did you mean")),
    "no epochs": (no_change, "finetune dense.pt --data data/data.yaml --imgsz 64 --out out --epochs 0", 2, ("epochs",)),
    "negative batch": (no_change, "finetune dense.pt --data data/data.yaml --imgsz 64 --out out --batch 0", 2, ("batch = 0",)),
    "imgsz of an export": (no_change, "export dense.pt --imgsz 100 --out out", 2, ("--imgsz 96",)),
    "engine that is none": (no_change, "bench text.onnx --out out --rounds 1 --runs 1", 9, ("text.onnx",)),
    "missing engine": (no_change, "bench none.onnx --out out --rounds 1 --runs 1", 2, ("none.onnx",)),
    "two engines of one name": (no_change, "bench text.onnx text.onnx --out out", 2, ("text", "LABEL=PATH")),
    "file of another kind": (no_change, "eval run.toml --data data/data.yaml --imgsz 64 --out out", 2, ("run.toml", ".onnx")),
    "split that is not there": (
        no_change, "eval dense.pt --data data/data.yaml --imgsz 64 --out out --split test", 4, ("'test'", "train (4 images)")),
    "graph that is none": (no_change, "build text.onnx --imgsz 64 --out out", 7, ("text.onnx",)),
    "quantize a graph that is none": (no_change, "quantize text.onnx --data data/data.yaml --imgsz 64 --out out", 8,
                                      ("text.onnx",)),
    "missing run.toml": (no_change, "run none.toml", 2, ("none.toml",)),
    "run without a model": (no_change, "run --data data/data.yaml", 2, ("'model' is missing",)),
    "run with a wrong key": (lambda root: (root / "run.toml").write_text(TOML + "round = 3\n"), "run run.toml", 2,
                             ("run.toml", "bench.round", "did you mean 'rounds'")),
    "run with an unknown criterion": (no_change, "run run.toml --criterion fischer", 2, ("did you mean fisher",)),
    "run with an unknown recipe": (no_change, "run run.toml --recipe minmaxx", 2, ("minmaxx", "did you mean minmax")),
    "run with an unknown target": (no_change, "run run.toml --target nano", 2, ("nano",)),
    "run with imgsz off the stride": (no_change, "run run.toml --imgsz 100", 2, ("--imgsz 96",)),
    "run with ratio 1.0": (no_change, "run run.toml --ratio 1.0", 2, ("prune.ratio", "less than 1")),
    "run with an unknown layer": (
        lambda root: (root / "run.toml").write_text(
            TOML.replace('"l1"', '"l1"\nstrategy = "per-layer"\nlayers = {"model.33" = 0.5}')),
        "run run.toml", 2, ("model.33", "did you mean")),
    "run with an unknown training key": (
        lambda root: (root / "run.toml").write_text(TOML.replace("[int8]", "extra = {mixupp = 0.1}\n[int8]")), "run run.toml", 2,
        ("mixup",)),
    "report of no run": (no_change, "report data", 11, ("data",)),
    "compare with no run": (no_change, "compare data", 11, ("data",)),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_every_mistake_has_its_code_and_message(case: str, job: Path, toolchain: Run) -> None:
    change, line, code, parts = CASES[case]
    change(job)
    before = {p: p.read_bytes() for p in job.rglob("*") if p.is_file()}
    message(toolchain(line), code, *parts)
    lost = [p for p, content in before.items() if not p.exists() or p.read_bytes() != content]
    assert [p for p in lost if p.suffix not in (".cache",)] == []
    assert not (job / "out" / "pruned.pt").exists()
    assert not (job / "run" / "stages").exists(), "stages were begun"


@pytest.mark.parametrize("line", ["prune", "pruune dense.pt", "prune dense.pt --rato 0.5", "prune dense.pt --ratio half"])
def test_a_line_that_cannot_be_understood(line: str, job: Path, toolchain: Run) -> None:
    code, out, err = toolchain(line)
    assert code == 2
    assert "Traceback" not in err
    assert "Usage" in err
    assert out == ""


def test_nothing_goes_to_stdout_when_json_was_asked_and_something_is_wrong(job: Path, toolchain: Run) -> None:
    answer = toolchain("prune none.pt --imgsz 64 --criterion l1 --json")
    message(answer, 3, "none.pt")
    assert answer[1] == ""


def test_json_is_one_object_on_stdout(job: Path, toolchain: Run) -> None:
    code, out, _ = toolchain("prune dense.pt --imgsz 64 --criterion l1 --out out --json")
    assert code == 0
    assert json.loads(out)["reached"]["macs"] >= 0.5
    code, out, _ = toolchain("prune dense.pt --imgsz 64 --explain --json")
    assert code == 0
    assert {g["group"] for g in json.loads(out)["groups"]} >= {"model.3", "model.4.cv1"}


def test_a_thin_picture_is_no_mistake(job: Path, toolchain: Run) -> None:
    thin_image(job)
    assert toolchain(PRUNE)[0] == 0


@pytest.fixture
def closed_port() -> Iterator[int]:
    with socket.socket() as taken:  # bound and not listening: nobody else can answer there
        taken.bind(("127.0.0.1", 0))
        yield int(taken.getsockname()[1])


def test_an_unreachable_host_is_found_before_the_first_stage(job: Path, toolchain: Run, closed_port: int) -> None:
    message(toolchain(f"run run.toml --host me@127.0.0.1:{closed_port}"), 9, "refused", str(closed_port))
    assert not (job / "run" / "stages").exists()


def test_a_run_folder_of_other_inputs_is_left_alone(job: Path, toolchain: Run) -> None:
    (job / "run").mkdir()
    kept = {"identity": {"model_sha256": "0", "data_sha256": "1", "imgsz": 64}}
    (job / "run" / "run.json").write_text(json.dumps(kept))
    message(toolchain("run run.toml"), 11, "model_sha256, data_sha256 differ", "another --out")
    assert json.loads((job / "run" / "run.json").read_text()) == kept
    assert [p.name for p in (job / "run").iterdir()] == ["run.json"]


def test_a_broken_run_json_is_named(job: Path, toolchain: Run) -> None:
    (job / "run").mkdir()
    (job / "run" / "run.json").write_text("{")
    message(toolchain("run run.toml"), 11, "run.json")


def test_no_space_left_keeps_what_is_finished(job: Path, toolchain: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    real: Callable[[int], None] = os.fsync

    def full(descriptor: int) -> None:
        if "cut.partial" in os.readlink(f"/proc/self/fd/{descriptor}"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(stage.os, "fsync", full)
        message(toolchain("run run.toml"), 9, "no space left", "cut", "finished stages stay")
    before = finished(job / "run")
    assert list(before) == ["dense"]
    monkeypatch.setattr("toolchain.pipeline.networks.tune_stage", stop_here)
    toolchain("run run.toml")
    assert finished(job / "run")["dense"] == before["dense"]
    assert "cut" in finished(job / "run")


def stop_here(*_: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.skipif(os.geteuid() != 0, reason="a small file system needs root")
def test_a_full_file_system(job: Path, toolchain: Run) -> None:
    small = job / "small"
    small.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", small], capture_output=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"cannot mount here: {done.stderr.decode().strip()}")
    try:
        message(toolchain("prune dense.pt --imgsz 64 --criterion l1 --out small/out"), 9, "no space left", "pruned.pt")
        assert not (small / "out" / "pruned.pt").exists()
    finally:
        subprocess.run(["umount", small], check=True)


def test_ctrl_c_ends_with_130_and_keeps_what_is_finished(job: Path) -> None:
    process = command("run", job / "run.toml", "--epochs", 500)
    deadline = time.monotonic() + 120
    while not list((job / "run" / "stages").glob("tune.partial-*/train_state.pt")) and time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "run the same command again to go on" in err
    assert "Traceback" not in err
    assert out == ""
    assert {"dense", "cut"} <= set(finished(job / "run"))
    assert list((job / "run" / "stages").glob("tune.partial-*/train_state.pt"))


def test_names_of_the_small_network_are_what_the_cases_expect() -> None:
    assert live_model().names == NAMES
