"""What only a real board can show: does this TensorRT do what the toolchain expects of it? Goes on after each failure.

Everything goes into one archive that the board's owner can send: answers, logs, hashes; no engines, no pictures, no names.
"""

from __future__ import annotations

import io
import json
import re
import time
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from toolchain import progress
from toolchain.device.conversion import Order, convert
from toolchain.device.engine_messages import BenchAnswer, Turn
from toolchain.device.infer import PROBE_S
from toolchain.device.lock import hold
from toolchain.device.messages import check
from toolchain.device.remote import connect
from toolchain.device.selftest_graphs import GRAPHS, SIDE, Graph
from toolchain.device.session import AgentSession
from toolchain.device.settings import HERE, On
from toolchain.device.state_messages import Probe
from toolchain.errors import MeasurementError, RuntimeMissingError, ToolchainError
from toolchain.stage import tool_versions, write_bytes

RESULT = "selftest.json"
HOME = re.compile(r"/(?:home|Users)/[^/\s\"'\\]+")
STEP_S = 600.0
LEAST_COSINE = {"fp32": 0.9999, "fp16": 0.999, "qdq": 0.99}
AGREE = 0.05  # trtexec and the agent's own loop, medians of the same plan
RUNS: dict[str, Any] = {"runs": 200, "seconds": 3.0, "cap_s": 60.0}
WARM_UP: dict[str, Any] = {"warmup_runs": 50, "warmup_s": 1.0, "settle_cap_s": 0}
KNOWN = (
    "python",
    "arch",
    "kernel",
    "board",
    "l4t",
    "packages",
    "cores",
    "cpu_model",
    "memory_total_bytes",
    "runtimes",
    "emulated",
)


@dataclass(frozen=True)
class Step:
    """One thing tried.

    Attributes:
        status: "ok", "failed", or "skipped": it could not be tried, for the reason in `text`.
        found: what the device answered.
    """

    name: str
    status: Literal["ok", "failed", "skipped"]
    seconds: float
    text: str = ""
    found: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class SelfTest:
    """All steps on one device.

    Attributes:
        tensorrt: its version; None where it is not installed.
    """

    device: dict[str, Any]
    tensorrt: str | None
    steps: list[Step]
    versions: dict[str, str | None]
    archive: Path

    @property
    def failed(self) -> list[Step]:
        """Steps that failed."""
        return [step for step in self.steps if step.status == "failed"]

    def to_json(self) -> dict[str, Any]:
        """Plain dict for JSON."""
        return {**asdict(self), "archive": str(self.archive)}


class _Trial:
    """The steps so far. Each runs in an agent of its own, so a crash costs one step."""

    def __init__(self, device: Any, folder: Path, on: On) -> None:
        self.device, self.on, self.steps = device, on, list[Step]()
        self.paths = {graph.name: graph.save(folder) for graph in GRAPHS}

    def run(self, name: str, work: Callable[[AgentSession], dict[str, Any]]) -> dict[str, Any] | None:
        """What `work` found; None where it failed, which is noted and hurts no other step.

        What is found but is not as it must be has a `problem` in it, and is kept.
        """
        began = time.monotonic()
        found: dict[str, Any] | None = None
        try:
            with self.device.session() as session:
                found = work(session)
            text = str(found.pop("problem", ""))
            status = "failed" if text else "ok"
        except RuntimeMissingError as error:
            status, text = "skipped", str(error)
        except ToolchainError as error:
            status, text = "failed", str(error)
        seconds = round(time.monotonic() - began, 2)
        self.steps.append(Step(name, status, seconds, text, found or {}))  # type: ignore[arg-type]
        progress.note(f"  {status:8}{name}" + (f": {text.splitlines()[0]}" if text else ""))
        return found

    def ask(self, name: str, step: str, **fields: Any) -> dict[str, Any] | None:
        """One step of the agent's own."""
        return self.run(name, lambda session: session.request("selftest", timeout_s=STEP_S, step=step, **fields))

    def fields(self, runtime: str) -> dict[str, Any]:
        provider = {"tensorrt": "gpu", "onnxruntime": "CPUExecutionProvider"}[runtime]
        return {"runtime": runtime, "provider": provider, "threads": self.on.threads}

    def order(self, graph: str, provider: str = "gpu") -> Order:
        """A plan of one of the graphs."""
        return Order(self.paths[graph], "tensorrt", provider)


def selftest(out: Path, on: On = HERE) -> SelfTest:
    """Try everything on one device; writes `selftest.zip` into `out`.

    Raises:
        DeviceError and its kinds: the device cannot be reached, or somebody else measures there. What fails there later is a
        failed step.
    """
    out.mkdir(parents=True, exist_ok=True)
    with connect(on.host, python=on.python) as device, device.session() as holder:
        hold(holder, wait_s=on.wait_s)
        probe = check(Probe, holder.request("probe", timeout_s=PROBE_S))
        info = probe.runtimes.get("tensorrt")
        trial = _Trial(device, _folder(out), on)
        trial.ask("runtimes", "runtimes")
        reference = {name: _here(trial.paths[name]) for name in LEAST_COSINE}
        _run_and_compare(trial, "onnxruntime", GRAPHS[0], reference)
        _run_and_compare(trial, "onnxruntime", GRAPHS[2], reference)
        if info is None:
            reason = probe.unreadable.get("runtimes.tensorrt", "not installed")
            trial.steps.append(Step("tensorrt", "skipped", 0.0, f"no TensorRT on this device: {reason}"))
        else:
            _tensorrt(trial, reference)
    whole = SelfTest(
        {name: value for name, value in probe.model_dump().items() if name in KNOWN}, info.version if info else None,
        trial.steps, tool_versions(), out / "selftest.zip",
    )  # fmt: skip
    write_bytes(whole.archive, pack(whole, probe.hostname))
    return whole


def check_passed(result: SelfTest) -> None:
    """An error unless TensorRT was tried there and did all that was expected.

    Raises:
        MeasurementError: a step failed, or there was no TensorRT to try.
    """
    if result.failed:
        names = ", ".join(step.name for step in result.failed)
        raise MeasurementError("the device did not do all that was expected", got=names, fix=f"send {result.archive}")
    if result.tensorrt is None:
        raise MeasurementError(
            "no TensorRT there, so it was not tried; what else there is works",
            fix="on a Jetson: sudo apt-get install tensorrt python3-libnvinfer",
        )


def _folder(out: Path) -> Path:
    folder = out / "graphs"
    folder.mkdir(exist_ok=True)
    return folder


def _here(path: Path) -> np.ndarray:
    """What ONNX Runtime on this machine makes of the agent's seeded pixels."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    kind = np.float16 if "float16" in session.get_inputs()[0].type else np.float32
    pixels = np.random.RandomState(0).randint(0, 256, size=(1, 3, SIDE, SIDE), dtype=np.uint8)
    array = (pixels.astype(np.float32) / np.float32(255)).astype(kind)
    return np.asarray(session.run(None, {session.get_inputs()[0].name: array})[0], dtype=np.float64).ravel()


def _cosine(one: np.ndarray, other: np.ndarray) -> float:
    return float(one @ other / max(1e-300, np.linalg.norm(one) * np.linalg.norm(other)))


def _run_and_compare(trial: _Trial, runtime: str, graph: Graph, reference: Mapping[str, np.ndarray]) -> None:
    """Load, run twice, compare with ONNX Runtime on this machine."""

    def work(session: AgentSession) -> dict[str, Any]:
        fields = trial.fields(runtime)
        file = trial.paths[graph.name]
        path = convert(session, trial.order(graph.name)).path if runtime == "tensorrt" else session.put(file)
        answer = session.request("selftest", timeout_s=STEP_S, step="outputs", path=path, **fields)
        cosines = [_cosine(np.asarray(answer[run], dtype=np.float64), reference[graph.name]) for run in ("first", "second")]
        found = {"cosine": cosines, "options": answer["options"], "load_ms": answer["load_ms"]}
        if not min(cosines) >= LEAST_COSINE[graph.name]:
            found["problem"] = f"other outputs than ONNX Runtime's here: cosine {min(cosines):.6f}"
        return found

    trial.run(f"{runtime}: {graph.name} runs and agrees", work)


def _tensorrt(trial: _Trial, reference: Mapping[str, np.ndarray]) -> None:
    trial.ask("cuda", "cuda")
    versions = trial.ask("versions", "versions")
    if versions is None:
        return
    old = str(versions["here"]["tensorrt"]).startswith("8.")
    trial.ask("surface", "surface")
    trtexec = trial.ask("trtexec", "trtexec_help")
    for graph in GRAPHS:
        if not (graph.typed and old):
            trial.run(f"parser: {graph.name}", _verdict(trial, graph))
    for name in LEAST_COSINE:
        graph = next(one for one in GRAPHS if one.name == name)
        if graph.typed and old:
            continue
        _run_and_compare(trial, "tensorrt", graph, reference)
        trial.run(f"latency: {name}", _latency(trial, graph, trtexec is not None))
        trial.run(f"layers: {name}", _layers(trial, graph, "gpu"))
        if trtexec is not None:
            fields = {"order": {}, "quantized": graph.quantized}
            trial.run(f"trtexec builds: {name}", _with_path(trial, graph, "trtexec_build", fields))
    trial.run("timing cache", _build(trial, "gpu:workspace_mib=128"))
    trial.run("tiny workspace", _build(trial, "gpu:workspace_mib=16"))
    if not str(versions["here"]["tensorrt"]).startswith("11."):
        trial.run("flag FP16", _layers(trial, GRAPHS[0], "gpu:precision=fp16"))
    if versions["dla_cores"]:
        graph, provider = (GRAPHS[0], "dla0:precision=fp16") if old else (GRAPHS[1], "dla0")
        trial.run("DLA with fallback", _layers(trial, graph, provider))


def _with_path(trial: _Trial, graph: Graph, step: str, fields: Mapping[str, Any]) -> Callable[[AgentSession], dict[str, Any]]:
    def work(session: AgentSession) -> dict[str, Any]:
        path = session.put(trial.paths[graph.name])
        return session.request("selftest", timeout_s=4 * STEP_S, step=step, path=path, **fields)

    return work


def _verdict(trial: _Trial, graph: Graph) -> Callable[[AgentSession], dict[str, Any]]:
    """The parser must take or refuse the graph as the rules say."""
    ask = _with_path(trial, graph, "verdict", {})

    def work(session: AgentSession) -> dict[str, Any]:
        found = ask(session)
        if ("refused" in found) == graph.accepted:
            said = f"refused: {found['text']}" if graph.accepted else "accepted"
            found["problem"] = f"another verdict than the rule «{graph.rule}» says: {said}"
        return found

    return work


def _build(trial: _Trial, provider: str) -> Callable[[AgentSession], dict[str, Any]]:
    def work(session: AgentSession) -> dict[str, Any]:
        return convert(session, trial.order("fp32", provider)).model_dump()

    return work


def _layers(trial: _Trial, graph: Graph, provider: str) -> Callable[[AgentSession], dict[str, Any]]:
    def work(session: AgentSession) -> dict[str, Any]:
        fields = {**trial.fields("tensorrt"), "provider": provider}
        made = convert(session, trial.order(graph.name, provider))
        found = session.request("selftest", timeout_s=STEP_S, step="inspect", path=made.path, **fields)
        return {**made.model_dump(exclude={"path"}), **found}

    return work


def _latency(trial: _Trial, graph: Graph, trtexec: bool) -> Callable[[AgentSession], dict[str, Any]]:
    """By the agent's own loop, and by trtexec where it is; both must agree."""

    def work(session: AgentSession) -> dict[str, Any]:
        fields = trial.fields("tensorrt")
        path = convert(session, trial.order(graph.name)).path
        loaded = check(BenchAnswer, session.request("bench", timeout_s=STEP_S, path=path, **fields, **WARM_UP))
        turn = check(Turn, session.request("go", timeout_s=STEP_S, **RUNS))
        found: dict[str, Any] = {
            "options": loaded.options, "latency_ms": turn.latency_ms, "device_ms": turn.device_ms, "trtexec": None,
            "p50_ms": float(np.median(turn.latency_ms)),
        }  # fmt: skip
        if trtexec:
            other = session.request("selftest", timeout_s=STEP_S, step="trtexec_latency", path=path, seconds=3)
            found["trtexec"] = other
            ours, theirs = float(np.median(turn.device_ms or [np.nan])), float(np.median(other["compute_ms"]))
            found |= {"device_p50_ms": ours, "trtexec_p50_ms": theirs}
            if not abs(ours / theirs - 1) <= AGREE:
                found["problem"] = f"trtexec and the agent differ by more than 5 %: {theirs:.4f} and {ours:.4f} ms"
        return found

    return work


def pack(result: SelfTest, hostname: str | None) -> bytes:
    """The archive: selftest.json, and long texts as files of their own. Home folders and the host are not named in it."""
    plain = result.to_json()
    texts: dict[str, str] = {}
    for step in plain["steps"]:
        slug = "".join(c if c.isalnum() else "-" for c in step["name"])
        for key in ("inspector", "help", "layers_text"):
            if isinstance(step["found"].get(key), str):
                texts[f"{slug}.{key}.txt"] = step["found"].pop(key)
    texts[RESULT] = json.dumps({**plain, "archive": result.archive.name}, indent=1, default=str)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in sorted(texts.items()):
            text = HOME.sub("~", text)
            archive.writestr(name, text.replace(hostname, "HOST") if hostname and len(hostname) > 2 else text)
    return buffer.getvalue()
