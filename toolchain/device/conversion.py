"""Graphs for runtimes that make something of their own out of them: it is made on the device, once, and stays there."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolchain import progress
from toolchain.device import plan
from toolchain.device.engine_messages import Building, Converted, RuntimeVersion
from toolchain.device.messages import check
from toolchain.device.precision import Way, choose_way, precision_of
from toolchain.device.session import AgentSession
from toolchain.errors import UnknownNameError
from toolchain.stage import file_sha256

if TYPE_CHECKING:
    import onnx

CONVERTING = ("tensorrt",)  # whose agent file says BUILDS
SILENCE_S = 300.0  # TensorRT's own start; from then on the builder is heard every few seconds
PER_MILLE = 1000


@dataclass(frozen=True)
class Order:
    """What a device is to build.

    Attributes:
        graph: the file that goes there.
        provider: with its options, as the build is asked for.
        more: the runtime's own order beside that, see toolchain/agent/trt/ladder.py.
        calibration: pictures or a calibration cache on this machine, see `On`.
    """

    graph: Path
    runtime: str
    provider: str
    more: dict[str, Any] = field(default_factory=dict)
    calibration: Path | None = None

    def of(self, graph: Path) -> Order:
        """The same, of a copy of the graph."""
        return replace(self, graph=graph)


def place(session: AgentSession, path: Path, fields: Mapping[str, Any], calibration: Path | None = None) -> str:
    """Bring an engine to the device, and have made of a graph there what its runtime runs.

    Args:
        fields: what the agent must know to load an engine (`On.engine_fields()`); imgsz: side of the picture, for graphs that
            take any.
        calibration: pictures or a calibration cache on this machine, see `On`.

    Returns:
        path on the device of what is to be loaded.

    Raises:
        ExportError: that TensorRT would refuse the graph, which therefore stays here; names the nodes and what to do.
        ModelError: it did refuse the graph; names the node.
        OutOfMemoryError: every try needed more memory than there is.
        DeviceError and its kinds.
    """
    if fields["runtime"] not in CONVERTING:
        return session.put(path)
    if path.suffix == plan.SUFFIX:
        return plan.bring(session, path, fields)
    with tempfile.TemporaryDirectory(prefix="edge-graph-") as folder:
        return convert(session, order_of(session, path, fields, Path(folder), calibration)).path


def order_of(
    session: AgentSession, path: Path, fields: Mapping[str, Any], folder: Path, calibration: Path | None = None
) -> Order:  # fmt: skip
    """What is to be built of a graph on that device; says how precisions are chosen there.

    Args:
        fields, calibration: as of `place`, whose errors are raised.
        folder: where a graph is written that this version of TensorRT needs in another form.
    """
    runtime, provider = fields["runtime"], fields["provider"]
    model = _read(path)
    if model is None:
        return Order(path, runtime, provider, {}, calibration)
    version = check(RuntimeVersion, session.request("version", timeout_s=SILENCE_S, runtime=runtime)).version
    way = choose_way(path, model, provider, version, folder)
    if precision_of(provider) != "graph":
        say_once(f"  {path.name} for TensorRT {version} on {session.host}: {way.said}")
    _check(path.name, way, model, version)
    more = {} if way.typed_from is None else {"typed_from": way.typed_from}
    if _takes_any_size(model) and fields.get("imgsz") is not None:  # else it would only change the key
        more["imgsz"] = fields["imgsz"]
    return Order(way.graph, runtime, way.provider, more, calibration)


@cache
def say_once(text: str) -> None:
    """An engine is loaded many times in one benchmark."""
    progress.note(text)


def _read(path: Path) -> onnx.ModelProto | None:
    """The graph without external weights; None for what is none, which the device's own parser is to say."""
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    try:
        return onnx.load(str(path), load_external_data=False)
    except DecodeError:
        return None


def _check(name: str, way: Way, model: onnx.ModelProto, version: str) -> None:
    """Refuse here what would be refused there, where the version is one whose rules are known."""
    from toolchain.tensorrt.verify import check_accepted

    graph = model if way.typed_from is None else _read(way.graph)
    if graph is None or way.impossible:
        return  # which the device says
    try:
        check_accepted(graph, version, weak=way.weak)
    except UnknownNameError:
        progress.note(f"  {name}: nothing is known about what TensorRT {version} refuses; it is tried")


def convert(session: AgentSession, order: Order) -> Converted:
    """What the device makes of a graph."""
    name, more = order.graph.name, dict(order.more)
    if order.calibration is not None:
        kind = "images" if order.calibration.suffix == ".npy" else "cache"
        more["calibration"] = {"sha256": file_sha256(order.calibration), kind: session.put(order.calibration)}
    asked: dict[str, Any] = {
        "runtime": order.runtime,
        "provider": order.provider,
        "path": session.put(order.graph),
        "order": more,
    }
    with progress.task(f"Building {name} on {session.host}", total=PER_MILLE, unit="per mille") as task:
        answer = session.request(
            "convert", timeout_s=SILENCE_S, on_event=lambda event, data: show_building(task, event, data), **asked
        )
    made = check(Converted, answer)
    if made.rung:
        progress.note(
            f"  {name} on {session.host}: memory was short; built on try {made.rung + 1}, it may be slower than it could be"
        )
    return made


def show_building(task: progress.Task, event: str, data: object) -> None:
    """How far a build is, of PER_MILLE; other events say nothing to people."""
    if event != "building":
        return
    told = check(Building, data)
    share = task.done if told.share is None else int(PER_MILLE * told.share)
    task.advance(max(0, share - task.done), note=how_far(told))


def how_far(told: Building) -> str:
    """Time left, or gone where that is not told, and the builder's word for what it does."""
    left = f"{told.left_s:.0f} s left" if told.left_s is not None else f"{told.elapsed_s:.0f} s so far"
    return f"{left} {told.phase or ''}".rstrip()


def _takes_any_size(model: onnx.ModelProto) -> bool:
    """Whether an input of the graph has a side that is not said."""
    return any(not side.dim_value for value in model.graph.input for side in list(value.type.tensor_type.shape.dim)[1:])
