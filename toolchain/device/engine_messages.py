"""What a device says about an engine: loaded, timed, run over pictures, profiled."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, FiniteFloat, model_validator

from toolchain.device.messages import Count, Message, Path_, Positive, Sha256, Text


class TensorInfo(Message):
    """One input or output: shape holds None or a name where it is free."""

    name: Text
    shape: list[int | Text | None]
    type: Text


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
