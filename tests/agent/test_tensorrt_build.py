"""ONNX to plan in processes of their own, on a strict fake of nine TensorRTs: flags, rungs, what stays and what is refused."""

from __future__ import annotations

import hashlib
import json
import os
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests import tinynet
from tests.tensorrt_fakes.lab import NEWEST, VERSIONS, misbehave
from toolchain.agent import runtimes
from toolchain.agent.trt import api, build_net, calibration, ladder, place, plans
from toolchain.agent.wire import AgentError

rt = runtimes.find("tensorrt")
MIB = 1 << 20


def convert(path: Path, order: dict[str, Any] | None = None, **more: Any) -> tuple[str, dict[str, Any]]:
    return rt.convert(str(path), more.pop("provider", "gpu"), order or {}, str(path.parent / "cache"), **more)


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    return tinynet.save_detector(tmp_path / "net.onnx")


def save_quantized(path: Path, *, operator: str = "Conv", zero: int = 0) -> Path:
    """Q and DQ before one node."""
    constants = [
        numpy_helper.from_array(np.float32(0.02), "scale"),
        numpy_helper.from_array(np.int8(zero), "zero"),
        numpy_helper.from_array(np.ones((8, 3, 1, 1), np.float32), "weight"),
    ]
    nodes = [
        helper.make_node("QuantizeLinear", ["images", "scale", "zero"], ["q"], "quantize"),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["d"], "dequantize"),
        helper.make_node(operator, ["d", "weight"], ["out"], "worker"),
    ]
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, c, 8, 8]) for n, c in (("images", 3), ("out", 8))]
    opset = [helper.make_opsetid("", 17)]
    onnx.save(
        helper.make_model(helper.make_graph(nodes, "q", values[:1], values[1:], constants), opset_imports=opset, ir_version=8),
        path,
    )
    return path


def flags_of(plan: str) -> dict[str, Any]:
    """What the fake was built with."""
    return dict(json.loads(Path(plan).read_bytes()[28:].partition(b"\n")[0]))


def left(path: Path) -> list[str]:
    folder = path.parent / "cache" / "engines"
    return sorted(name for name in os.listdir(folder) if name.startswith(".")) if folder.exists() else []


def test_plan_and_what_is_beside_it(each_version: str, graph: Path) -> None:
    path, about = convert(graph)
    data = Path(path).read_bytes()
    assert data[:4] == b"ftrt", "a plain plan, nothing before it"
    assert hashlib.sha256(data).hexdigest() == about["plan_sha256"]
    assert (Path(path).stat().st_mode & 0o777, Path(plans.beside(path)).stat().st_mode & 0o777) == (0o600, 0o600)
    assert json.loads(Path(plans.beside(path)).read_text())["key"] == Path(path).stem == about["key"]
    here = about["made_of"]["here"]
    assert (here["tensorrt"], here["compute"], here["multiprocessors"]) == (each_version, "8.7", 8)
    assert (about["reused"], about["rung"], about["cuda"], left(graph)) == (False, 0, "libcudart", [])
    again, kept = convert(graph)
    assert (again, kept["reused"]) == (path, True)


def test_the_key_holds_what_goes_in(newest: str, graph: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = {convert(graph)[1]["key"]}
    for provider in (
        "gpu:workspace_mib=100",
        "gpu:version_compatible=yes",
        "gpu:hardware_compatible=ampere_plus",
        "gpu:gpu_fallback=no",
    ):
        keys.add(convert(graph, provider=provider)[1]["key"])
    monkeypatch.setenv("FAKE_CUDART_MINOR", "2")
    keys.add(convert(graph)[1]["key"])
    monkeypatch.setattr(place, "power_mode", lambda root: "15W")
    keys.add(convert(graph)[1]["key"])
    tinynet.save_detector(graph, seed=5)
    keys.add(convert(graph)[1]["key"])
    assert len(keys) == 8


def test_graphs_say_what_they_are(each_version: str, tmp_path: Path) -> None:
    plan = flags_of(convert(save_quantized(tmp_path / "q.onnx"))[0])
    old = each_version.startswith("8.")
    assert (plan["strong"], plan["flags"]) == (not old, ["INT8"] if old else [])


@pytest.mark.parametrize(("precision", "flags"), [("fp16", ["FP16"]), ("bf16", ["BF16"])])
def test_flags_of_weak_typing(each_version: str, graph: Path, precision: str, flags: list[str]) -> None:
    if (
        each_version.startswith("11.")
        or (precision == "bf16" and each_version.startswith("8.5"))
        or (precision == "bf16" and each_version == "8.6.1")
    ):
        with pytest.raises(AgentError, match=f"has no flag {flags[0]}") as caught:
            convert(graph, {"precision": precision})
        assert caught.value.kind == "engine_build"
    else:
        plan = flags_of(convert(graph, {"precision": precision})[0])
        assert (plan["strong"], plan["flags"]) == (False, flags)


def test_fp16_around_quantized_layers(each_version: str, tmp_path: Path) -> None:
    if each_version.startswith("11."):
        pytest.skip("no flags in 11")
    assert flags_of(convert(save_quantized(tmp_path / "q.onnx"), {"precision": "fp16"})[0])["flags"] == ["FP16", "INT8"]


@pytest.mark.parametrize(("minor", "runs"), [("7", False), ("9", True)])
def test_fp8_needs_a_gpu_that_has_it(
    newest: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, minor: str, runs: bool
) -> None:
    """Compute capability 8.9; Orin has 8.7. The graph itself says FP8: there is no flag for it."""
    monkeypatch.setenv("FAKE_CUDART_MINOR", minor)
    model = onnx.load(save_quantized(tmp_path / "q.onnx"))
    zero = next(tensor for tensor in model.graph.initializer if tensor.name == "zero")
    zero.CopyFrom(helper.make_tensor("zero", TensorProto.FLOAT8E4M3FN, [], [0.0]))
    model.opset_import[0].version = 19
    onnx.save(model, tmp_path / "fp8.onnx")
    if runs:
        assert flags_of(convert(tmp_path / "fp8.onnx")[0])["flags"] == []
    else:
        with pytest.raises(AgentError, match=r"compute capability 8\.7\) has no FP8"):
            convert(tmp_path / "fp8.onnx")
    with pytest.raises(AgentError, match="toolchain typed --fp8"):
        convert(tmp_path / "q.onnx", provider="gpu:precision=fp8")


def test_compatibility_on_request(each_version: str, graph: Path) -> None:
    order = {"version_compatible": True, "hardware_compatible": "AMPERE_PLUS"}
    if each_version.startswith("8.5"):
        with pytest.raises(AgentError, match="no version-compatible plans"):
            convert(graph, order)
    else:
        assert flags_of(convert(graph, order)[0])["flags"] == ["VERSION_COMPATIBLE"]


def test_dla_falls_back_to_the_gpu(each_version: str, graph: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    misbehave(monkeypatch, "dla=2")
    path, about = convert(graph, provider="dla1")
    plan = flags_of(path)
    assert (plan["device"], "GPU_FALLBACK" in plan["flags"], about["made_of"]["flags"]["dla"]) == ("DLA", True, 1)
    assert "GPU_FALLBACK" not in flags_of(convert(graph, {"gpu_fallback": False}, provider="dla1")[0])["flags"]
    with pytest.raises(AgentError, match="built for dla1"):
        rt.load(path, "gpu", 1)


@pytest.mark.parametrize(
    "provider", ["gpu:precison=fp16", "gpu:precision=int4", "gpu:workspace_mib=1", "gpu:gpu_fallback=maybe", "gpu:fast"]
)
def test_options_that_are_none(newest: str, graph: Path, provider: str) -> None:
    with pytest.raises(AgentError) as caught:
        convert(graph, provider=provider)
    assert caught.value.kind == "provider"


def test_the_parser_names_the_node(each_version: str, tmp_path: Path) -> None:
    with pytest.raises(AgentError, match=r"node 2.*MyOp") as caught:
        convert(save_quantized(tmp_path / "op.onnx", operator="MyOp"))
    assert caught.value.kind == "unsupported_op"
    with pytest.raises(AgentError, match=r"node 0.*zero point") as caught:
        convert(save_quantized(tmp_path / "zero.onnx", zero=3))
    assert caught.value.kind == "parse"
    (tmp_path / "none.onnx").write_bytes(b"\x00" * 50)
    with pytest.raises(AgentError) as caught:
        convert(tmp_path / "none.onnx")
    assert caught.value.kind == "parse"
    assert left(tmp_path / "op.onnx") == []


@pytest.mark.parametrize("what", ["memory", "kill"])
def test_the_ladder(apart: str, graph: Path, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    monkeypatch.setattr(place, "free_bytes", lambda root: {"memory": 8 << 30, "swap": 0, "gpu": 8 << 30})
    misbehave(monkeypatch, f"build={what}:{100 * MIB}")
    path, about = convert(graph)
    assert (about["rung"], flags_of(path)["limits"]["WORKSPACE"]) == (2, 64 * MIB)
    assert [one["kind"] for one in about["tried"]] == ["out_of_memory"] * 2
    assert left(graph) == []


def test_the_end_of_the_ladder(oldest: str, graph: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(place, "free_bytes", lambda root: {"memory": 8 << 30, "swap": 0, "gpu": None})
    misbehave(monkeypatch, f"build=memory:{MIB}")
    heard: list[dict[str, Any]] = []
    with pytest.raises(AgentError, match=r"5 tries.*add swap") as caught:
        convert(graph, tell=heard.append)
    assert caught.value.kind == "out_of_memory"
    assert [one["number"] for one in heard if one["event"] == "rung"] == [0, 1, 2, 3, 4]
    assert plans_of(graph) == []


def plans_of(graph: Path) -> list[Path]:
    return sorted((graph.parent / "cache" / "engines").glob("*.plan"))


@pytest.mark.parametrize(
    ("words", "kind"), [("build=none", "engine_build"), ("build=crash", "engine_build"), ("no-driver", "no_cuda")]
)
def test_no_plan_without_reason(apart: str, graph: Path, monkeypatch: pytest.MonkeyPatch, words: str, kind: str) -> None:
    misbehave(monkeypatch, words)
    with pytest.raises(AgentError) as caught:
        convert(graph)
    assert caught.value.kind == kind
    assert plans_of(graph) == []


def test_rungs_ask_for_less_and_less() -> None:
    found = ladder.rungs({"dla": 0}, 2 << 30)
    assert [one["workspace"] // MIB for one in found] == [512, 256, 64, 64, 64]
    assert "tactic_dram" not in found[0]
    assert found[1]["dla_dram"] == 256 * MIB
    assert found[-1]["small_batch"]
    assert [one["workspace"] // MIB for one in ladder.rungs({}, 400 * MIB)] == [100, 64, 64, 64]
    assert ladder.rungs({"workspace_mib": 300}, 400 * MIB) == [{"workspace": 300 * MIB}], "what was asked for is not changed"


@pytest.mark.parametrize("version", [VERSIONS[0], NEWEST])
def test_a_stop_in_the_middle(version: str, apart: str, graph: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """8 reports no progress and hears no wish to stop: its process is killed."""
    monkeypatch.setenv("EDGE_FAKE_TENSORRT", version)
    monkeypatch.setattr(ladder, "HEARTBEAT_S", 0.1)
    misbehave(monkeypatch, "build=hang")
    ends: list[Any] = []
    building = threading.Event()

    def tell(event: dict[str, Any]) -> None:
        if event["event"] == "building":
            building.set()

    caught: list[AgentError] = []

    def work() -> None:
        try:
            convert(graph, tell=tell, at_end=ends.append)
        except AgentError as error:
            caught.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    assert building.wait(30)
    ends[0]()
    thread.join(30)
    assert "stopped" in str(caught[0])
    assert (plans_of(graph), left(graph)) == ([], [])


def test_what_a_dead_build_left_goes(apart: str, graph: Path) -> None:
    dead = graph.parent / "cache" / "engines" / ".build-999999999-x"
    dead.mkdir(parents=True)
    (dead / "plan").write_bytes(b"half")
    convert(graph)
    assert left(graph) == []


def test_progress(each_version: str, graph: Path) -> None:
    heard: list[dict[str, Any]] = []
    convert(graph, tell=heard.append)
    shares = [one["share"] for one in heard if one["event"] == "building"]
    if each_version.startswith("8."):
        assert shares == []
    else:
        assert shares == sorted(shares)
        assert shares[-1] == 1.0
        assert len(shares) >= 5
    assert {"event": "parsed", "layers": 4} in heard


def test_a_silent_build_shows_that_it_lives(apart: str, graph: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGE_FAKE_TENSORRT", VERSIONS[0])
    misbehave(monkeypatch, "build=hang")
    monkeypatch.setattr(ladder, "HEARTBEAT_S", 0.1)
    heard: list[dict[str, Any]] = []
    with pytest.raises(AgentError, match="did not end within"):
        ladder.convert(str(graph), {}, str(graph.parent / "cache"), heard.append, limit_s=1.0)
    assert any(one["event"] == "building" and one["share"] is None for one in heard)


def test_phases() -> None:
    phases = build_net.Phases()
    phases.start("all", None, 4)
    phases.start("inner", "all", 2)
    assert phases.told(1.0) == {"share": 0.0, "elapsed_s": 1.0, "left_s": None}
    phases.step("inner", 0)
    assert phases.told(1.0)["share"] == 0.125
    phases.finish("inner")
    phases.step("all", 0)
    phases.step("unknown", 3)
    assert phases.told(10.0) == {"share": 0.25, "elapsed_s": 10.0, "left_s": 30.0}


def test_timing_cache(each_version: str, graph: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = convert(graph)[1]
    assert (first["timing_before"], len(first["timing_after"])) == (None, 64)
    second = convert(graph, {"workspace_mib": 50})[1]
    assert second["timing_before"] == first["timing_after"]
    (kept,) = (graph.parent / "cache" / "engines").glob("timing-*.bin")
    kept.write_bytes(b"changed")  # native code reads it: what is not ours is not given to it
    assert convert(graph, {"workspace_mib": 51})[1]["timing_before"] is None
    misbehave(monkeypatch, "timing=foreign")
    heard: list[dict[str, Any]] = []
    convert(graph, {"workspace_mib": 52}, tell=heard.append)
    assert any("timing cache" in one.get("text", "") for one in heard)


def test_plans_of_others_are_refused(newest: str, graph: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, _ = convert(graph)

    def refused(words: str) -> None:
        misbehave(monkeypatch, "deserialize=none")  # it must not come so far
        with pytest.raises(AgentError, match=words) as caught:
            rt.load(path, "gpu", 1)
        assert caught.value.kind == "foreign_plan"

    data, beside = Path(path).read_bytes(), Path(plans.beside(path)).read_text()
    Path(path).write_bytes(data[:-1] + b"x")
    refused("not the one that was built")
    assert convert(graph)[1]["reused"] is False, "a damaged plan is built anew"
    Path(path).write_bytes(b"vtrt" + data)
    refused("TensorRT-RTX")
    Path(path).write_bytes(b"\x20\0\0\0" + b'{"batch": 1}' + data)
    refused("text before the plan")
    Path(path).write_bytes(data)
    for text in ("", "{}", "[1]", beside.replace('"format": 1', '"format": 2'), beside.replace('"here"', '"there"')):
        Path(plans.beside(path)).write_text(text)
        refused("json")
    os.remove(plans.beside(path))
    refused("nobody says where it was built")
    Path(plans.beside(path)).write_text(beside)
    monkeypatch.setenv("FAKE_CUDART_MINOR", "2")
    refused("built elsewhere: compute 8.7, here 8.2")


def test_header() -> None:
    assert plans.header_version(b"ftrt" + bytes(20) + bytes((10, 3, 0, 30)) + b"rest") == "10.3.0.30"
    assert plans.header_version(b"ptrt" + bytes(40)) is None
    assert plans.header_version(b"ftrt") is None


def test_disk_full(newest: str, graph: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(place, "disk_free", lambda folder: 1000)
    with pytest.raises(AgentError, match="MB are needed") as caught:
        convert(graph)
    assert caught.value.kind == "disk_full"


@pytest.mark.parametrize(
    ("order", "words"),
    [
        ({"precison": "fp16"}, "precison"),
        ({"precision": "fp8"}, "fp8"),
        ({"precision": "fp16", "calibration": {"method": "entropy", "sha256": "0", "cache": "x"}}, "int8"),
        ({"precision": "int8", "calibration": {"method": "entropy", "sha256": "0"}}, "pictures or a cache"),
    ],
)
def test_orders_that_make_no_sense(newest: str, graph: Path, order: dict[str, Any], words: str) -> None:
    with pytest.raises(AgentError, match=words) as caught:
        convert(graph, order)
    assert caught.value.kind == "bad_request"


def test_a_free_picture_size_needs_one(newest: str, tmp_path: Path) -> None:
    path = tinynet.save_detector(tmp_path / "free.onnx", batch="batch", size="side")
    with pytest.raises(AgentError, match="imgsz"):
        convert(path)
    assert flags_of(convert(path, {"imgsz": 64})[0])["profile"]["images"] == [[1, 3, 64, 64], [1, 3, 64, 64], [8, 3, 64, 64]]
    shapes = {"images": [[1, 3, 32, 32], [2, 3, 32, 32], [4, 3, 32, 32]]}
    assert flags_of(convert(path, {"shapes": shapes})[0])["profile"] == shapes
    with pytest.raises(AgentError, match="4 dimensions"):
        convert(path, {"shapes": {"images": [[1], [1], [1]]}})


# -- the legacy road


@pytest.fixture
def prepared(tmp_path: Path) -> dict[str, Any]:
    np.save(tmp_path / "images.npy", tinynet.pictures(19))
    return {"method": "entropy", "sha256": "0" * 64, "images": str(tmp_path / "images.npy")}


@pytest.mark.parametrize("method", ["entropy", "minmax"])
def test_calibration_from_pictures(each_version: str, graph: Path, prepared: dict[str, Any], method: str) -> None:
    order = {"precision": "int8", "calibration": {**prepared, "method": method}}
    if each_version.startswith("11."):
        with pytest.raises(AgentError, match="has no flag"):
            convert(graph, order)
        return
    path, about = convert(graph, order)
    assert flags_of(path)["flags"] == ["FP16", "INT8"]
    assert about["made_of"]["calibration_sha256"] == "0" * 64


def test_calibration_by_pycuda(by_pycuda: None, oldest: str, graph: Path, prepared: dict[str, Any]) -> None:
    path, about = convert(graph, {"precision": "int8", "calibration": {**prepared, "method": "entropy"}})
    assert about["calibration_cache"].startswith("TRT-")
    assert json.loads(Path(plans.beside(path)).read_text())["cuda"] == "pycuda 2026.1"


def test_calibration_from_a_cache(oldest: str, graph: Path, tmp_path: Path) -> None:
    (tmp_path / "cal.cache").write_bytes(b"TRT-8502-EntropyCalibration2\nimages: 3c010a14\n")
    order = {"precision": "int8", "calibration": {"method": "entropy", "sha256": "1" * 64, "cache": str(tmp_path / "cal.cache")}}
    assert flags_of(convert(graph, order)[0])["flags"] == ["FP16", "INT8"]


@pytest.mark.parametrize(
    ("text", "words"),
    [(b"junk", "first line"), (b"TRT-8502-EntropyCalibration2\nother: 3c010a14\n", "another network's.*images")],
)
def test_caches_of_others(oldest: str, graph: Path, tmp_path: Path, text: bytes, words: str) -> None:
    (tmp_path / "cal.cache").write_bytes(text)
    order = {"precision": "int8", "calibration": {"method": "entropy", "sha256": "1" * 64, "cache": str(tmp_path / "cal.cache")}}
    with pytest.raises(AgentError, match=words) as caught:
        convert(graph, order)
    assert caught.value.kind == "calibration"


def test_int8_needs_ranges_from_somewhere(oldest: str, graph: Path) -> None:
    with pytest.raises(AgentError, match="would invent the ranges"):
        convert(graph, {"precision": "int8"})


def test_batches_hold_one_batch_in_memory(newest: str, prepared: dict[str, Any]) -> None:
    batches = calibration.Batches(prepared["images"], [(8, 3, 32, 32)])
    addresses = [batches.next() for _ in range(4)]
    assert addresses[2:] == [None, None], "19 pictures are two whole batches of 8"
    assert addresses[0] == addresses[1] is not None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"", "first line"),
        (b"something\n", "first line"),
        (b"TRT-8502-EntropyCalibration2\n", "no tensor"),
        (b"TRT-8502-EntropyCalibration2\nimages: 3c01\n", "line 2"),
        (b"TRT-8502-EntropyCalibration2\nimages 3c010a14\n", "line 2"),
        (b"TRT-8502-EntropyCalibration2\nimages: zzzzzzzz\n", "line 2"),
        (b"TRT-8502-EntropyCalibration2\nimages: 7fc00000\n", "line 2"),
    ],
)
def test_caches_that_are_none(tmp_path: Path, text: bytes, words: str) -> None:
    (tmp_path / "c").write_bytes(text)
    with pytest.raises(AgentError, match=words) as caught:
        calibration.read_cache(str(tmp_path / "c"))
    assert caught.value.kind == "calibration"


def test_a_cache_is_read(tmp_path: Path) -> None:
    scale = np.float32(1 / 127)
    (tmp_path / "c").write_bytes(b"TRT-8502-EntropyCalibration2\na:b/c: " + scale.tobytes()[::-1].hex().encode() + b"\n\n")
    assert calibration.read_cache(str(tmp_path / "c")) == {"a:b/c": float(scale)}


def test_too_old(newest: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import tensorrt

    monkeypatch.delattr(tensorrt.IExecutionContext, "execute_async_v3")
    with pytest.raises(AgentError, match=r"lacks IExecutionContext.execute_async_v3; 8\.5") as caught:
        api.module()
    assert caught.value.kind == "old_runtime"


def test_versions_are_those_of_the_boards() -> None:
    assert [version.split(".")[0] for version in VERSIONS] == ["8", "8", "10", "10", "10", "10", "10", "11", "11"]
    assert VERSIONS[-1] == NEWEST
    assert time.monotonic() > 0


@pytest.mark.parametrize("shape", [(1, 3, 64, 64), (-1, 3, 32, 32), (20, 3, 32, 32)])
def test_pictures_must_fit_the_input(newest: str, prepared: dict[str, Any], shape: tuple[int, ...]) -> None:
    with pytest.raises(AgentError, match="32") as caught:
        calibration.Batches(prepared["images"], [shape])
    assert caught.value.kind == "calibration"
