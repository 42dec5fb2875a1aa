"""`toolchain verify` and `toolchain typed`, from files to exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest

from tests.tensorrt import graphs as g
from toolchain import cli
from toolchain.cli.graphs import span
from toolchain.device.settings import On
from toolchain.tensorrt.graph import Graph
from toolchain.verbs.accuracy import cpu_features


def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *words: str) -> tuple[int, str, str]:
    """Exit code, stdout, stderr of `toolchain WORDS` in this process."""
    monkeypatch.setattr("sys.argv", ["toolchain", *words])
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        cli.main()
    out, err = capsys.readouterr()
    return int(ended.value.code or 0), out, " ".join(err.split())


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    model = g.good()
    g.int32_bias(model)
    onnx.save(model, tmp_path / "broken.onnx")
    return tmp_path / "broken.onnx"


def test_verify_names_node_rule_and_remedy(
    broken: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, err = run(capsys, monkeypatch, "verify", str(broken), "--tensorrt", "10.3.0.30")
    assert code == 7
    assert out == ""
    assert "error H3 bias_dq: int32, not int8 [10.3]" in err
    assert "warning typed the graph" in err
    assert "accepted by: none of 10.3" in err
    assert "TensorRT 10.3 would refuse the graph" in err


def test_verify_for_machines(broken: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    code, out, _ = run(capsys, monkeypatch, "verify", str(broken), "--tensorrt", "8.6", "--tensorrt", "11.0", "--json")
    answer = json.loads(out)
    assert code == 7
    assert set(answer["versions"]) == {"8.6", "11.0"}
    found = answer["versions"]["11.0"]
    assert found["accepted"] is False
    assert [(one["rule"], one["node"], one["level"]) for one in found["findings"]] == [
        ("H3", "bias_dq", "error"), ("typed", "", "warning"),
    ]  # fmt: skip


def test_verify_asks_all_versions_unless_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    onnx.save(g.good(), tmp_path / "good.onnx")
    code, out, err = run(capsys, monkeypatch, "verify", str(tmp_path / "good.onnx"))
    assert (code, out) == (0, "")
    assert "accepted by: 8.5 to 8.6, 10.0 to 10.16, 11.0 to 11.4" in err


def test_wrong_words_and_files(
    broken: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, _, err = run(capsys, monkeypatch, "verify", str(broken), "--tensorrt", "10.33")
    assert code == 2
    assert "did you mean 10.3" in err
    (tmp_path / "text.onnx").write_text("not onnx")
    for command in (["verify"], ["typed", "--out", str(tmp_path / "out")]):
        code, _, err = run(capsys, monkeypatch, *command, str(tmp_path / "text.onnx"))
        assert code == 7
        assert "not a readable ONNX file" in err


def test_typed_writes_a_graph_that_agrees(
    tiny_int8: onnx.ModelProto, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    onnx.save(tiny_int8, tmp_path / "model.int8.onnx")
    code, out, _ = run(
        capsys, monkeypatch, "typed", str(tmp_path / "model.int8.onnx"), "--out", str(tmp_path / "typed"), "--json"
    )
    answer = json.loads(out)
    assert code == 0
    assert (answer["int8"], answer["opset"], answer["warnings"]) == (True, 19, [])
    assert answer["agreement"]["images"] == 4
    assert json.loads((tmp_path / "typed" / "typed.json").read_text()) == answer
    assert Graph(onnx.load(tmp_path / "typed" / answer["file"])).pairs
    assert answer["size_bytes"] < 0.6 * (tmp_path / "model.int8.onnx").stat().st_size


def test_typed_in_fp8(
    tiny_int8: onnx.ModelProto, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    onnx.save(tiny_int8, tmp_path / "model.int8.onnx")
    words = ["typed", str(tmp_path / "model.int8.onnx"), "--fp8", "--out", str(tmp_path / "typed"), "--json"]
    code, out, _ = run(capsys, monkeypatch, *words)
    answer = json.loads(out)
    assert (code, answer["fp8"], answer["int8"], answer["warnings"]) == (0, True, False, [])
    zero = {graph.zero_type(node) for graph in [Graph(onnx.load(tmp_path / "typed" / answer["file"]))] for node in graph.pairs}
    assert zero == {onnx.TensorProto.FLOAT8E4M3FN}


def test_typed_refuses_what_is_typed(
    tiny_graph: onnx.ModelProto, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    onnx.save(tiny_graph, tmp_path / "model.onnx")
    assert run(capsys, monkeypatch, "typed", str(tmp_path / "model.onnx"), "--out", str(tmp_path))[0] == 0
    code, _, err = run(capsys, monkeypatch, "typed", str(tmp_path / "model.typed.onnx"), "--out", str(tmp_path))
    assert code == 7
    assert "FP16 already" in err


def test_spans_of_versions() -> None:
    assert span(["8.5", "8.6", "10.0", "10.2", "10.3"]) == "8.5 to 8.6, 10.0, 10.2 to 10.3"
    assert span([]) == ""


def test_the_runtime_chooses_the_placement(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the processor beside it is."""
    monkeypatch.setattr("toolchain.device.probe.probe", lambda *_, **__: {"cpu_flags": ["asimddp"], "arch": "aarch64"})
    assert cpu_features(On(host="board", runtime="tensorrt"))["rules"] == "tensorrt"
    assert cpu_features(On(host="board"))["rules"] == "onnxruntime-arm"
