"""What a device may say, as strict types: a device's answers are data to check, never trusted."""

from __future__ import annotations

import json
from typing import Annotated, Any, NoReturn, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, FiniteFloat, ValidationError, model_validator

from toolchain.errors import ProtocolError

PROTOCOL = 1
MARKER = b"\x1eedge1 "
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0)]


def _printable(value: object) -> object:
    """Text from a device may end up in a terminal: control characters are made visible."""
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in value) if isinstance(value, str) else value


Text = Annotated[str, BeforeValidator(_printable), Field(max_length=4096)]
Path_ = Annotated[str, Field(max_length=4096, pattern=r"^/[^\x00-\x1f]*$")]


class Message(BaseModel):
    """Strict: no conversion of types; fields that are not known are left out."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)


class Hello(Message):
    protocol: int
    python: Text
    arch: Text
    pid: int


class TensorInfo(Message):
    """One input or output: shape holds None or a name where it is free."""

    name: Text
    shape: list[int | Text | None]
    type: Text


class State(Message):
    """What may change during a measurement; None with a reason in `unreadable`."""

    time_unix: FiniteFloat | None
    boot_id: Text | None
    load_average: list[FiniteFloat] | None
    memory_free_bytes: Count | None
    governor: Text | None
    clock_mhz: dict[Text, FiniteFloat] | None
    temperature_c: dict[Text, FiniteFloat] | None
    throttle_counts: dict[Text, int] | None
    unreadable: dict[Text, Text]


class RuntimeInfo(Message):
    version: Text
    providers: list[Text]
    precisions: list[Text]


class Probe(Message):
    """What a machine is; None with a reason in `unreadable`."""

    python: Text | None
    numpy: Text | None
    arch: Text | None
    kernel: Text | None
    hostname: Text | None
    board: Text | None
    cpu_model: Text | None
    cpu_flags: list[Text] | None
    cores: Count | None
    memory_total_bytes: Count | None
    disk_free_bytes: Count | None
    runtimes: dict[Text, RuntimeInfo | None]
    state: State
    unreadable: dict[Text, Text]


class Loaded(Message):
    """An engine that is loaded and has run once."""

    provider: Text
    options: dict[Text, Text | int | float | bool]
    runtime_version: Text
    load_ms: Positive
    first_inference_ms: Positive


class BuildAnswer(Loaded):
    inputs: list[TensorInfo]
    outputs: list[TensorInfo]
    ran_input_shape: list[int]
    ran_output_shapes: list[list[int]]


class BenchAnswer(Loaded):
    warmup_runs: Count
    input_shape: list[int]
    rss_mb: Positive | None


class Turn(Message):
    """The samples of one turn: starts on the device's monotonic clock (s) and latencies (ms)."""

    start_s: list[FiniteFloat]
    latency_ms: list[Positive]
    rss_mb: Positive | None

    @model_validator(mode="after")
    def _in_order(self) -> Turn:
        if len(self.start_s) != len(self.latency_ms):
            raise ValueError("as many starts as latencies are needed")
        ends = [start + ms / 1000 for start, ms in zip(self.start_s, self.latency_ms, strict=True)]
        if any(start < end - 1e-6 for start, end in zip(self.start_s[1:], ends[:-1], strict=True)):
            raise ValueError("an inference starts before the one before it has ended")
        return self


class InferAnswer(Message):
    path: Path_
    sha256: Sha256
    size: Count
    images: Count
    batch: Count
    seconds: Positive
    load_ms: Positive
    provider: Text
    runtime_version: Text


class NodeRuns(Message):
    """One node of an engine, with its time in every run, ms; 0 is below the resolution of the runtime's clock.

    Attributes:
        shape: of its first output; None where it was not recorded, as is `provider`.
    """

    name: Text
    op: Text
    provider: Text | None
    shape: Annotated[list[Count], Field(max_length=8)] | None
    ms: list[Annotated[float, Field(ge=0, allow_inf_nan=False)]]


class ProfileAnswer(Message):
    """Nodes in the order they run, and the time of each whole run, ms."""

    nodes: Annotated[list[NodeRuns], Field(min_length=1, max_length=4096)]
    total_ms: Annotated[list[Positive], Field(min_length=1, max_length=200)]
    provider: Text
    runtime_version: Text
    input_shape: list[int]

    @model_validator(mode="after")
    def _adds_up(self) -> ProfileAnswer:
        if any(len(node.ms) != len(self.total_ms) for node in self.nodes):
            raise ValueError("every node needs a time in every run")
        for run, total in enumerate(self.total_ms):
            if sum(node.ms[run] for node in self.nodes) > total * 1.001 + 0.001:
                raise ValueError("the nodes of a run take longer than the run")
        return self


class Progress(Message):
    done: Count
    total: Count


class Failure(Message):
    kind: Text
    text: Annotated[str, Field(max_length=1 << 16)]


M = TypeVar("M", bound=Message)


def check(kind: type[M], data: object) -> M:
    """`data` as a message of this kind.

    Raises:
        ProtocolError: a field is missing, of the wrong type or out of range.
    """
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the answer"
        raise ProtocolError(f"the device's {kind.__name__} is not what it must be", got=f"{where}: {first['msg']}") from error


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def parse_line(line: bytes) -> dict[str, Any]:
    """One marked line as an object.

    Raises:
        ProtocolError: not a JSON object.
    """
    try:
        data = json.loads(line.decode("utf-8"), parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise ProtocolError("the device sent a line that is not JSON", got=repr(line[:120])) from error
    if not isinstance(data, dict):
        raise ProtocolError("the device sent JSON that is not an object", got=repr(line[:120]))
    return data
