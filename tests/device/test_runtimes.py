"""Engines compared across runtimes: each in its own, in turns, with the runtime in the result."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests import tinynet
from tests.device.paces import short
from toolchain import requests, verbs
from toolchain.agent import runtimes
from toolchain.device import runtimes as module
from toolchain.device.bench import LATENCY_ALONE
from toolchain.device.settings import PROVIDERS, On
from toolchain.errors import ExportError, RuntimeMissingError, UnknownNameError, UsageError
from toolchain.verbs import runtimes as spreading
from toolchain.verbs.runtimes import spread

ONE = On(threads=1)
BOTH = ["onnxruntime", "openvino"]


def openvino_version() -> str:
    try:
        return str(runtimes.find("openvino").version())
    except ImportError as error:
        pytest.skip(f"openvino is not installed: {error}")


def test_the_usual_provider_is_the_runtimes() -> None:
    assert [On(runtime=name).provider for name in PROVIDERS] == list(PROVIDERS.values())
    assert On(runtime="openvino", provider="GPU").provider == "GPU"
    with pytest.raises(UnknownNameError, match="openvino"):
        On(runtime="openvinno")


def test_two_runtimes_in_turns(engines: dict[str, Path], tmp_path: Path) -> None:
    version = openvino_version()
    result = verbs.bench(engines, tmp_path / "out", on=ONE, pace=short(2), runtimes=BOTH)
    assert list(result.engines) == ["one.onnxruntime", "one.openvino", "two.onnxruntime", "two.openvino"]
    assert result.baseline == "one.onnxruntime"
    found = result.engines["two.openvino"]
    assert (found.runtime, found.provider, found.runtime_version) == ("openvino", "CPU", version)
    assert found.options["inference_precision_hint"] == "f32"
    assert result.engines["one.onnxruntime"].runtime == "onnxruntime"
    orders = [[], []]
    for label in result.engines:
        for number, entry in enumerate(json.loads((tmp_path / "out" / "samples" / f"{label}.json").read_text())["rounds"]):
            orders[number].append((entry["position"], label))
    assert sorted(orders[0])[0][1] == "one.onnxruntime"
    assert sorted(orders[1])[0][1] == "two.openvino"  # backwards, after the control
    records = [json.loads(line) for line in (tmp_path / "out" / "records.jsonl").read_text().splitlines()]
    (latency,) = [one for one in records if one["kind"] == "latency" and one["subject"] == "two.openvino"]
    assert latency["extra"]["runtime"] == "openvino"
    assert latency["versions"]["openvino"] == version
    again = verbs.bench(engines, tmp_path / "out", on=ONE, pace=short(2), runtimes=BOTH)
    assert again.engines["two.openvino"].latency_ms == found.latency_ms


def test_everything_there_and_what_is_left_out_says_why(
    engines: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = [On(threads=1), On(threads=1, provider="NoSuchProvider"), On(threads=1, runtime="ncnn")]
    monkeypatch.setattr(spreading, "runtimes_there", lambda on: there)
    free = {"free": tinynet.save_detector(tmp_path / "free.onnx", batch="batch")}
    result = verbs.bench(free, tmp_path / "out", on=ONE, pace=short(1), extras=LATENCY_ALONE, runtimes=["all"])
    assert list(result.engines) == ["free.onnxruntime"]
    reasons = [flag for flag in result.flags if flag.startswith("not compared: ")]
    assert "free.onnxruntime-NoSuchProvider: NoSuchProvider is not among" in reasons[0]
    assert "free.ncnn: ncnn takes one picture of a fixed size" in reasons[1]
    assert json.loads((tmp_path / "out" / "bench.json").read_text())["flags"] == list(result.flags)


def test_a_runtime_asked_for_by_name_is_never_left_out(tmp_path: Path) -> None:
    free = {"free": tinynet.save_detector(tmp_path / "free.onnx", batch="batch")}
    with pytest.raises(ExportError, match="fixed size"):
        spread(free, ["onnxruntime", "ncnn"], ONE, tmp_path)


def test_what_a_device_has(monkeypatch: pytest.MonkeyPatch) -> None:
    found: dict[str, Any] = {
        "runtimes": {"openvino": {"providers": ["CPU"]}, "onnxruntime": {"providers": ["AzureExecutionProvider",
                     "CPUExecutionProvider", "CUDAExecutionProvider"]}, "tensorrt": None},
        "unreadable": {"runtimes.tensorrt": "no module"},
    }  # fmt: skip
    monkeypatch.setattr(module, "probe", lambda host, python: found)
    there = [(on.runtime, on.provider) for on in module.runtimes_there(ONE)]
    assert there == [("onnxruntime", "CPUExecutionProvider"), ("onnxruntime", "CUDAExecutionProvider"), ("openvino", "CPU")]
    found["runtimes"].clear()
    with pytest.raises(RuntimeMissingError, match="no module"):
        module.runtimes_there(ONE)


@pytest.mark.parametrize("names", [["onnxruntime", "onnxruntime"], ["all", "openvino"]])
def test_runtimes_that_contradict_each_other(engines: dict[str, Path], tmp_path: Path, names: list[str]) -> None:
    with pytest.raises(UsageError, match="runtimes"):
        spread(engines, names, ONE, tmp_path)


def test_flags_of_one_runtime_and_of_several() -> None:
    assert requests.runtimes_of(["openvino"], "GPU", attach=True) == ("openvino", ())
    assert requests.runtimes_of(["all"], "", attach=False) == ("onnxruntime", ["all"])
    for names, provider, attach in ((["all"], "CPU", False), (BOTH, "", True)):
        with pytest.raises(UsageError, match="goes with one"):
            requests.runtimes_of(names, provider, attach=attach)


def test_a_calibration_goes_with_implicit_int8_alone(tmp_path: Path) -> None:
    file = tmp_path / "calibration.cache"
    file.write_text("TRT-8503-MinMaxCalibration\n")
    assert requests.calibration(file, ["tensorrt"], "gpu:workspace_mib=64,precision=int8") == file
    assert requests.calibration(None, ["openvino"], "") is None
    for names, provider in ((["openvino"], "CPU"), (["tensorrt"], ""), (["tensorrt", "ncnn"], "gpu:precision=int8")):
        with pytest.raises(UsageError, match="implicit INT8"):
            requests.calibration(file, names, provider)
    with pytest.raises(UsageError, match="does not exist"):
        requests.calibration(tmp_path / "none.npy", ["tensorrt"], "gpu:precision=int8")


def test_one_runtime_keeps_labels_and_provider(engines: dict[str, Path], tmp_path: Path) -> None:
    found = spread(engines, ["onnxruntime"], On(threads=1, provider="CPUExecutionProvider:x=y"), tmp_path)
    assert list(found.files) == ["one", "two"]
    assert {on.provider for on in found.ons.values()} == {"CPUExecutionProvider:x=y"}
    assert found.files == engines
