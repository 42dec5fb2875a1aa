"""OpenVINO's own pair of files as an engine: it travels as one, and what is wrong with it is said."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests import tinynet
from tests.device.paces import short
from toolchain import verbs
from toolchain.agent import runtimes
from toolchain.device.bench import LATENCY_ALONE
from toolchain.device.forms import for_runtime
from toolchain.device.manifest import verify
from toolchain.device.settings import On
from toolchain.errors import ExportError, ModelError
from toolchain.export import openvino as module
from toolchain.stage import file_sha256

rt = runtimes.find("openvino")
try:
    rt.version()
except ImportError as error:
    pytest.skip(f"openvino is not installed: {error}", allow_module_level=True)
ON = On(runtime="openvino", threads=1)


@pytest.fixture
def pair(tmp_path: Path) -> Path:
    folder = tmp_path / "pair"
    folder.mkdir()
    graph = rt.core().read_model(str(tinynet.save_detector(tmp_path / "graph.onnx")))
    rt.module().save_model(graph, str(folder / "model.xml"), compress_to_fp16=False)
    names = "".join(f"  {index}: thing{index}\n" for index in range(tinynet.CLASSES))
    (folder / module.NAMES).write_text(f"names:\n{names}")
    return folder / "model.xml"


def test_the_pair_is_one_file_that_the_agent_runs(pair: Path, tmp_path: Path) -> None:
    first, again = (module.pack(pair, tmp_path / f"{name}.openvino") for name in "ab")
    assert first.read_bytes() == again.read_bytes()
    pictures = tinynet.pictures(1)
    (output,) = rt.load(str(first), "CPU", 1).run(pictures.astype(np.float32) / np.float32(255))
    np.testing.assert_allclose(output, tinynet.expected(pictures), rtol=1e-4, atol=1e-6)
    weights = pair.with_suffix(".bin")
    weights.write_bytes(weights.read_bytes()[:-1] + b"\1")
    assert file_sha256(module.pack(pair, again)) != file_sha256(first)  # one hash covers both


def test_outputs_need_no_names(pair: Path, tmp_path: Path) -> None:
    """NNCF's graphs have none, as ultralytics exports them."""
    graph = rt.core().read_model(str(pair))
    graph.outputs[0].get_tensor().set_names(set())
    (tmp_path / "nameless").mkdir()
    rt.module().save_model(graph, str(tmp_path / "nameless/model.xml"), compress_to_fp16=False)
    engine = rt.load(str(module.pack(tmp_path / "nameless/model.xml", tmp_path / "one.openvino")), "CPU", 1)
    assert engine.outputs[0]["name"]


def test_bench_and_build_take_it(pair: Path, tmp_path: Path) -> None:
    result = verbs.bench({"theirs": pair}, tmp_path / "bench", on=ON, pace=short(1), extras=LATENCY_ALONE)
    assert result.engines["theirs"].runtime == "openvino"
    verbs.build(pair, tmp_path / "bundle", imgsz=tinynet.SIZE, on=ON)
    manifest = verify(tmp_path / "bundle")
    assert manifest.engine == manifest.source == "engine.openvino"
    assert (tmp_path / "bundle" / "labels.txt").read_text().split() == ["thing0", "thing1", "thing2"]
    assert json.loads((tmp_path / "bundle" / "expected.json").read_text())["detections"]


def test_without_its_weights_it_is_refused(pair: Path, tmp_path: Path) -> None:
    pair.with_suffix(".bin").unlink()
    with pytest.raises(ExportError, match=r"no model\.bin"):
        for_runtime(pair, ON, tmp_path)


def test_another_runtime_is_refused(pair: Path, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"model\.xml for onnxruntime"):
        for_runtime(pair, On(), tmp_path)


def test_another_xml_is_refused(pair: Path, tmp_path: Path) -> None:
    for text, says in (("<html></html>", "<html>"), ("no xml", "syntax error")):
        pair.write_text(text)
        with pytest.raises(ExportError, match=says):
            for_runtime(pair, ON, tmp_path)


def test_what_is_no_detector_of_that_size_is_refused(pair: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="picture size"):
        verbs.build(pair, tmp_path / "bundle", imgsz=2 * tinynet.SIZE, on=ON)


def test_class_names_must_be_there(pair: Path, tmp_path: Path) -> None:
    (pair.parent / module.NAMES).unlink()
    with pytest.raises(ExportError, match="name its classes"):
        verbs.build(pair, tmp_path / "bundle", imgsz=tinynet.SIZE, on=ON)
    shutil.rmtree(pair.parent)
