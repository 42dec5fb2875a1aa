"""OpenVINO as the agent drives it: what runs is what was asked for, and the compiled graph says so."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import tinynet
from toolchain.agent import runtimes
from toolchain.agent.profile import merge
from toolchain.agent.wire import AgentError

ROOT = Path(__file__).parents[2]
rt = runtimes.find("openvino")
try:
    openvino = rt.module()
except ImportError as error:
    pytest.skip(f"openvino is not installed: {error}", allow_module_level=True)


@pytest.fixture
def graph(tmp_path: Path) -> str:
    return str(tinynet.save_detector(tmp_path / "engine.onnx"))


@pytest.fixture
def picture() -> np.ndarray:
    return tinynet.pictures(1).astype(np.float32) / np.float32(255)


def test_float_is_fp32_whatever_the_processor_could_do(graph: str) -> None:
    options = rt.load(graph, "CPU", 1).options
    assert options["inference_precision_hint"] == "f32"
    assert options["inference_num_threads"] == "1"
    assert options["convolutions"] == "f32 1"


def test_another_precision_is_the_one_that_runs_or_an_error(graph: str, picture: np.ndarray) -> None:
    spec = "CPU:INFERENCE_PRECISION_HINT=bf16"
    if "BF16" not in rt.core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        with pytest.raises(AgentError):
            rt.load(graph, spec, 1)
        return
    engine = rt.load(graph, spec, 1)
    assert engine.options["inference_precision_hint"] == "bf16"
    assert engine.provider == spec


def test_threads_it_cannot_have_are_refused(graph: str) -> None:
    with pytest.raises(AgentError, match="INFERENCE_NUM_THREADS") as caught:
        rt.load(graph, "CPU", 4096)
    assert caught.value.kind == "provider"


def test_a_device_that_is_not_the_one_asked_for_is_refused() -> None:
    class Compiled:
        def get_property(self, key: str) -> Any:
            return {"EXECUTION_DEVICES": ["CPU"]}[key]

    with pytest.raises(AgentError, match="asked for GPU, OpenVINO uses CPU"):
        rt.check(Compiled(), "GPU", {})


def test_profile_has_the_same_layers_in_every_run(graph: str, picture: np.ndarray) -> None:
    engine = rt.load(graph, "CPU", 1, profile_to="unused")
    for _ in range(3):
        engine.run(picture)
    profile = merge(engine.end_profile())
    (conv,) = [row for row in profile["nodes"] if row["op"].startswith("Convolution ")]
    assert conv["shape"] == [1, 4 + tinynet.CLASSES, 4, 4]
    assert conv["provider"] == "CPU"
    assert len(conv["ms"]) == len(profile["total_ms"]) == 3


def test_an_old_openvino_says_what_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(openvino, "Core")
    with pytest.raises(ImportError, match=r"2023\.1 or later"):
        rt.version()


def test_nothing_is_written_at_home(graph: str, tmp_path: Path) -> None:
    """OpenVINO's telemetry would do so when it is imported."""
    home = tmp_path / "home"
    home.mkdir()
    code = "import sys; from toolchain.agent.runtimes import rt_openvino as rt; rt.load(sys.argv[1], 'CPU', 1)"
    subprocess.run([sys.executable, "-c", code, graph], check=True, env={**os.environ, "HOME": str(home)}, cwd=ROOT)
    assert list(home.iterdir()) == []


def test_a_signal_after_an_engine_went_in_another_thread(graph: str) -> None:
    """OpenVINO alone dies of it: a Core that goes in another thread takes the first thread's signal stack with it."""
    code = """
import gc, os, signal, sys, threading, time
from toolchain.agent.runtimes import rt_openvino as rt

signal.signal(signal.SIGINT, signal.default_int_handler)
kept = [rt.load(sys.argv[1], "CPU", 1)]
thread = threading.Thread(target=lambda: (kept.clear(), gc.collect()))
thread.start()
thread.join()
try:
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(5)
except KeyboardInterrupt:
    print("told")
"""
    done = subprocess.run([sys.executable, "-X", "faulthandler", "-c", code, graph], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "told\n"), done.stderr
