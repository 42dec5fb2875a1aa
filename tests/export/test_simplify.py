"""A simplifier may crash, hang, empty the graph or change it: each is said, and none reaches the file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from tests.export.conftest import SIZE, STRIDE
from tests.helpers import NAMES
from tests.tinynet import save_detector
from toolchain.export import simplify as room
from toolchain.export.exporter import FILE, export_onnx
from toolchain.export.session import cpu_session

CRASH = "import os; os.abort()"
EMPTY = "import sys, onnx; m = onnx.load(sys.argv[1]); del m.graph.node[:]; onnx.save(m, sys.argv[2])"
CHANGED = (
    "import sys, onnx; from onnx import numpy_helper as h; m = onnx.load(sys.argv[1])\n"
    "w = [t for t in m.graph.initializer if t.name == 'weight'][0]; w.CopyFrom(h.from_array(h.to_array(w) * 1.01, 'weight'))\n"
    "onnx.save(m, sys.argv[2])"
)
RENAMED = "import sys, onnx; m = onnx.load(sys.argv[1]); m.graph.output[0].name = 'scores'; onnx.save(m, sys.argv[2])"


@pytest.fixture
def small(tmp_path: Path) -> onnx.ModelProto:
    return onnx.load(save_detector(tmp_path / "small.onnx"))


@pytest.fixture
def probe() -> NDArray[np.float32]:
    return np.random.default_rng(0).random((1, 3, 32, 32), dtype=np.float32)


def programs(monkeypatch: pytest.MonkeyPatch, **wanted: str) -> None:
    monkeypatch.setattr(room, "PROGRAMS", room.PROGRAMS | wanted)


def test_crash_falls_back_to_onnxslim(
    monkeypatch: pytest.MonkeyPatch, small: onnx.ModelProto, probe: NDArray[np.float32]
) -> None:
    programs(monkeypatch, onnxsim=CRASH)
    model, report = room.simplify(small, probe)
    assert report["used"] == "onnxslim"
    assert report["version"]
    assert "killed by signal 6" in report["failures"]["onnxsim"]
    np.testing.assert_allclose(room.run_all(model, probe)[0], room.run_all(small, probe)[0], atol=1e-5)


@pytest.mark.parametrize(
    ("program", "words"),
    [
        (CRASH, "killed by signal"),
        (EMPTY, "empty"),
        (CHANGED, "computes something else"),
        (RENAMED, "inputs or outputs"),
        ("raise ValueError('no such op')", "no such op"),
        ("import sys; open(sys.argv[2], 'wb').write(b'junk')", "not ONNX"),
        ("pass", "exit code 0"),
    ],
)
def test_bad_results_leave_the_graph_alone(
    monkeypatch: pytest.MonkeyPatch, small: onnx.ModelProto, probe: NDArray[np.float32], program: str, words: str
) -> None:
    programs(monkeypatch, onnxsim=program, onnxslim="raise SystemExit(3)")
    model, report = room.simplify(small, probe)
    assert model.SerializeToString() == small.SerializeToString()
    assert report["used"] is None
    assert report["version"] is None
    assert words in report["failures"]["onnxsim"]
    assert "exit code 3" in report["failures"]["onnxslim"]


def test_hanging_simplifier_is_ended(monkeypatch: pytest.MonkeyPatch, small: onnx.ModelProto, probe: NDArray[np.float32]) -> None:
    programs(monkeypatch, onnxsim="import time; time.sleep(60)", onnxslim=CRASH)
    monkeypatch.setattr(room, "TIMEOUT_S", 0.5)
    assert "did not end within" in room.simplify(small, probe)[1]["failures"]["onnxsim"]


def test_export_tells_the_reader(
    monkeypatch: pytest.MonkeyPatch, network: Any, pictures: NDArray[np.uint8], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    programs(monkeypatch, onnxsim=CRASH, onnxslim=CRASH)
    report = export_onnx(network, tmp_path, imgsz=SIZE, names=NAMES, stride=STRIDE, parity_images=pictures)
    assert report["simplifier"]["used"] is None
    assert set(report["simplifier"]["failures"]) == {"onnxsim", "onnxslim"}
    said = capsys.readouterr().err
    assert "onnxsim was not used" in said
    assert "onnxslim was not used" in said
    assert cpu_session(tmp_path / FILE).get_outputs()[0].shape == [1, 7, 80]
