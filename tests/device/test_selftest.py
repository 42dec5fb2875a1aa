"""The self-test of a device, on this machine as it is and as one that seems to have TensorRT."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.tensorrt_fakes import lab
from toolchain import errors
from toolchain.cli import app
from toolchain.device import selftest as module
from toolchain.device.selftest import Step, check_passed, pack, selftest

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(params=[lab.NEWEST, *(pytest.param(version, marks=pytest.mark.slow) for version in ("8.5.2.2", "10.3.0"))])
def board(request: pytest.FixtureRequest, cudart: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A machine that seems to have this TensorRT, and trtexec."""
    with lab.fake_machine(monkeypatch, cudart, request.param):
        yield request.param


def statuses(steps: list[Step]) -> dict[str, str]:
    return {step.name: step.status for step in steps}


def test_without_tensorrt_it_says_so_and_tries_the_rest(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["selftest", "local", "--out", str(tmp_path), "--json"])
    assert isinstance(done.exception, errors.MeasurementError)
    assert done.exception.exit_code == 10
    assert "no TensorRT there" in str(done.exception)
    result = json.loads(done.stdout)
    assert result["tensorrt"] is None
    assert {step["name"]: step["status"] for step in result["steps"]} == {
        "runtimes": "ok",
        "onnxruntime: fp32 runs and agrees": "ok",
        "onnxruntime: qdq runs and agrees": "ok",
        "tensorrt": "skipped",
    }


def test_a_board_with_tensorrt(board: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RUNS", {"runs": 5, "seconds": 0.1, "cap_s": 60.0})
    monkeypatch.setattr(module, "WARM_UP", {"warmup_runs": 3, "warmup_s": 0.0, "settle_cap_s": 0})
    monkeypatch.setattr(module, "LEAST_COSINE", {"fp32": 0.9999, "qdq": 0.99})
    result = selftest(tmp_path)
    assert result.tensorrt == board
    found = statuses(result.steps)
    old = board.startswith("8.")
    # the fake's parser knows two rules alone, and nothing of trtexec
    assert {name for name, status in found.items() if status == "failed"} <= {"parser: int32-bias", "parser: mixed-types"}
    assert found["trtexec"] == "skipped"
    assert found["tensorrt: qdq runs and agrees"] == found["latency: qdq"] == found["parser: zero-point"] == "ok"
    assert ("flag FP16" in found) == (not board.startswith("11."))
    if not old:
        with pytest.raises(errors.MeasurementError, match="int32-bias"):
            check_passed(result)
    with zipfile.ZipFile(result.archive) as archive:
        names = archive.namelist()
        saved = json.loads(archive.read(module.RESULT))
    assert [step["name"] for step in saved["steps"]] == [step.name for step in result.steps]
    assert not [name for name in names if name.endswith((".plan", ".onnx"))]
    assert "layers--fp32.inspector.txt" in names


@pytest.mark.slow
def test_it_goes_on_after_crashes(cudart: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with lab.fake_machine(monkeypatch, cudart):
        lab.misbehave(monkeypatch, "build=crash")
        found = statuses(selftest(tmp_path).steps)
    assert found["tensorrt: fp32 runs and agrees"] == found["timing cache"] == "failed"
    assert found["parser: fp32"] == found["cuda"] == "ok"


def test_what_names_people_stays_out(tmp_path: Path) -> None:
    step = Step("a", "failed", 1.0, "/home/anna/x on annas-board")
    whole = module.SelfTest({"board": "b"}, None, [step], {}, tmp_path / "s.zip")
    data = pack(whole, "annas-board")
    (tmp_path / "s.zip").write_bytes(data)
    with zipfile.ZipFile(tmp_path / "s.zip") as archive:
        text = archive.read(module.RESULT).decode()
    assert "anna" not in text
    assert "~/x on HOST" in text
