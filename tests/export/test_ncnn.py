"""ncnn engines: one file, the same bytes from the same graph, refused where ncnn has nothing for the graph."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests import tinynet
from toolchain.agent import runtimes
from toolchain.errors import ExportError, UsageError
from toolchain.export import ncnn as module
from toolchain.export.ncnn import to_ncnn

rt = runtimes.find("ncnn")


def test_the_same_graph_gives_the_same_file(tmp_path: Path) -> None:
    pytest.importorskip("pnnx")
    graph = tinynet.save_detector(tmp_path / "engine.onnx")
    first, again = (to_ncnn(graph, tmp_path / name).read_bytes() for name in ("a.ncnn", "b.ncnn"))
    assert first == again
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.ncnn", "b.ncnn", "engine.onnx"]


def test_the_agent_reads_the_same_format() -> None:
    assert rt.FORMAT == module.FORMAT


@pytest.mark.parametrize("network", [{"batch": 2}, {"batch": "batch"}, {"size": "side"}])
def test_batches_and_free_sizes_are_refused(tmp_path: Path, network: dict[str, Any]) -> None:
    with pytest.raises(ExportError, match="fixed size"):
        to_ncnn(tinynet.save_detector(tmp_path / "engine.onnx", **network), tmp_path / "out.ncnn")


def test_without_pnnx_the_package_to_install_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"edge-toolchain\[ncnn\]"):
        to_ncnn(tinynet.save_detector(tmp_path / "engine.onnx"), tmp_path / "out.ncnn")


@pytest.fixture
def converter(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Any]:
    """A pnnx that leaves the layers the test says."""
    answer: dict[str, Any] = {"layers": [], "status": 0}

    def run(words: list[str], cwd: Path, **_: Any) -> subprocess.CompletedProcess[str]:
        lines = ["7767517", f"{len(answer['layers'])} 9", *answer["layers"]]
        if not answer["status"]:
            (cwd / "model.ncnn.param").write_text("\n".join(lines) + "\n")
            (cwd / "model.ncnn.bin").write_bytes(b"")
        return subprocess.CompletedProcess(words, answer["status"], "", "it failed")

    monkeypatch.setattr(module, "program", lambda: "pnnx")
    monkeypatch.setattr(module.subprocess, "run", run)
    return answer


def test_operators_that_ncnn_lacks_are_named(tmp_path: Path, converter: dict[str, Any]) -> None:
    converter["layers"] = ["Input in0 0 1 in0", "torch.cumsum a 1 1 in0 1", "aten::size b 1 1 1 out0"]
    with pytest.raises(ExportError, match=r"aten::size, torch\.cumsum"):
        to_ncnn(tinynet.save_detector(tmp_path / "engine.onnx"), tmp_path / "out.ncnn")
    assert not (tmp_path / "out.ncnn").exists()


def test_a_converter_that_fails_says_what_it_said(tmp_path: Path, converter: dict[str, Any]) -> None:
    converter["status"] = 1
    with pytest.raises(ExportError, match="it failed"):
        to_ncnn(tinynet.save_detector(tmp_path / "engine.onnx"), tmp_path / "out.ncnn")


def test_ends_of_another_name_are_refused(tmp_path: Path, converter: dict[str, Any]) -> None:
    converter["layers"] = ["Input in0 0 1 in0", "Sigmoid a 1 1 in0 1"]
    with pytest.raises(ExportError, match="out0"):
        to_ncnn(tinynet.save_detector(tmp_path / "engine.onnx"), tmp_path / "out.ncnn")
