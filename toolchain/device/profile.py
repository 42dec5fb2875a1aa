"""Where an engine spends its time, node by node, on the device it will live on.

The runtime's profiler slows an engine down, so these times say which layers matter and never how fast the engine is: that is
what `bench` is for.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from toolchain.device.conversion import place
from toolchain.device.engine_messages import ProfileAnswer
from toolchain.device.lock import hold
from toolchain.device.messages import check
from toolchain.device.remote import connect
from toolchain.device.settings import HERE, On
from toolchain.errors import ProtocolError, UsageError

MAX_RUNS = 200
RUNTIMES = ("onnxruntime", "openvino", "tensorrt")  # whose agent file says PROFILES


@dataclass(frozen=True)
class NodeTime:
    """One node of an engine after the runtime's own fusions.

    Attributes:
        name: the runtime's; it begins with the ONNX node it was made from, if there is one.
        op: the runtime's name of the operation.
        provider: what ran it; None where the runtime does not tell.
        mean_ms, min_ms: over the runs. The fastest run is what the node costs; on a busy machine the mean, and even the median
            (the system takes the processor away at the same place of every run), are those of other work.
        shape: of its first output; None where the runtime does not tell.
    """

    name: str
    op: str
    provider: str | None
    mean_ms: float
    min_ms: float
    shape: tuple[int, ...] | None

    def to_json(self) -> dict[str, Any]:
        """Plain dict for JSON."""
        return asdict(self)

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> NodeTime:
        """What `to_json` gave, perhaps read back from a file."""
        return cls(**{**row, "shape": None if row["shape"] is None else tuple(row["shape"])})


def profile(
    engine: Path, on: On = HERE, *, runs: int = 20, warmup_runs: int = 5, imgsz: int | None = None, timeout_s: float = 600.0
) -> list[NodeTime]:
    """Time of every node of one engine, in a process of its own, in the order they run.

    Args:
        on: device, runtime, threads.
        imgsz: side of the picture, for engines that take any.
        timeout_s: longest wait for all the runs.

    Raises:
        UsageError: no such file, or a bad count.
        DeviceError and its kinds: also where the runtime cannot time its nodes.
    """
    if not engine.is_file():
        raise UsageError("an engine's file does not exist", got=str(engine))
    if not (1 <= runs <= MAX_RUNS and 0 <= warmup_runs <= MAX_RUNS and on.threads >= 1):
        raise UsageError("a bad count", got=f"runs {runs}, warmup_runs {warmup_runs}, threads {on.threads}",
                         fix=f"1 to {MAX_RUNS} runs, at least one thread")  # fmt: skip
    with connect(on.host, python=on.python) as device, device.session() as session:
        hold(session, wait_s=on.wait_s)
        fields: dict[str, Any] = {**on.engine_fields(), "imgsz": imgsz, "runs": runs, "warmup_runs": warmup_runs}
        there = place(session, engine, fields, on.calibration)
        answer = check(ProfileAnswer, session.request("profile", timeout_s=timeout_s, path=there, **fields))
    if len(answer.total_ms) != runs:
        raise ProtocolError("the device profiled another number of runs", got=f"{len(answer.total_ms)}, asked for {runs}")
    if answer.provider != on.provider:
        raise ProtocolError("the device profiled another provider", got=f"{answer.provider}, asked for {on.provider}")
    return [
        NodeTime(
            node.name, node.op, node.provider, fmean(node.ms), min(node.ms), None if node.shape is None else tuple(node.shape)
        )
        for node in answer.nodes
    ]
