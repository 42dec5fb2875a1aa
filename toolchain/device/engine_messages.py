"""What a device says about an engine: loaded, timed, run over pictures, profiled."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, FiniteFloat, JsonValue, model_validator

from toolchain.device.messages import Count, Message, Path_, Positive, Sha256, Text

NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]


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


class Converted(Message):
    """What a runtime made of a graph, and keeps on the device; see toolchain/agent/trt/plans.py.

    Attributes:
        key: hash of all that went into it.
        reused: it was there from before.
        made_of: graph, calibration, flags and the machine, as the key holds them.
        rung: tries that needed more memory than there was; above 0 the engine may be slower than it could be.
    """

    path: Path_
    key: Sha256
    plan_sha256: Sha256
    size: Count
    reused: bool
    made_of: dict[Text, JsonValue]
    rung: Count = 0
    typing: Text | None = None
    layers: Count | None = None
    total_s: NotNegative | None = None


class RuntimeVersion(Message):
    version: Text


class Building(Message):
    """How far a build is; None where the runtime's version does not tell."""

    share: Annotated[float, Field(ge=0, le=1)] | None
    elapsed_s: NotNegative
    left_s: NotNegative | None
    phase: Text | None


class Warmup(Message):
    """How the warm-up went.

    Attributes:
        stopped: "asked" for what was asked, "steady" when the latency stood still, "cap" when it was given up to wait for that.
        change: relative change of the latency over the last seconds; None where it was not looked at.
    """

    runs: Count
    seconds: NotNegative
    stopped: Literal["asked", "steady", "cap"]
    change: FiniteFloat | None


class BenchAnswer(Loaded):
    warmup: Warmup
    input_shape: list[int]
    rss_mb: Positive | None
    gpu_mb: Positive | None
    gpu_reason: Text | None

    @model_validator(mode="after")
    def _gpu_memory_or_why_not(self) -> BenchAnswer:
        if (self.gpu_mb is None) != (self.gpu_reason is not None):
            raise ValueError("gpu_mb or the reason why there is none, not both")
        return self


class Turn(Message):
    """The samples of one pass: starts on the device's monotonic clock (s) and latencies (ms).

    Attributes:
        device_ms: the part of each latency on the accelerator alone, by its own clock; None where the runtime does not tell.
        stopped: "enough" where the pass took what was asked, "cap" where its time was up, "full" where it held too many samples.
    """

    start_s: Annotated[list[FiniteFloat], Field(min_length=1)]
    latency_ms: list[Positive]
    device_ms: list[NotNegative] | None = None
    stopped: Literal["enough", "cap", "full"]
    rss_mb: Positive | None

    @model_validator(mode="after")
    def _in_order(self) -> Turn:
        if len(self.start_s) != len(self.latency_ms):
            raise ValueError("as many starts as latencies are needed")
        if self.device_ms is not None and len(self.device_ms) != len(self.latency_ms):
            raise ValueError("as many times on the accelerator as latencies are needed")
        ends = [start + ms / 1000 for start, ms in zip(self.start_s, self.latency_ms, strict=True)]
        if any(start < end - 1e-6 for start, end in zip(self.start_s[1:], ends[:-1], strict=True)):
            raise ValueError("an inference starts before the one before it has ended")
        return self


class WholeTurn(Turn):
    """The samples of one pass of whole detections: latency_ms is from the picture to the boxes, the others are its parts."""

    prepare_ms: list[Positive]
    inference_ms: list[Positive]
    suppress_ms: list[Positive]
    picture_shape: Annotated[list[int], Field(min_length=3, max_length=3)]
    boxes: Count

    @model_validator(mode="after")
    def _parts_add_up(self) -> WholeTurn:
        parts = (self.prepare_ms, self.inference_ms, self.suppress_ms)
        if any(len(part) != len(self.latency_ms) for part in parts):
            raise ValueError("every run needs a time for each part")
        for whole, *each in zip(self.latency_ms, *parts, strict=True):
            if abs(whole - sum(each)) > 0.001:
                raise ValueError("the parts of a run are not the run")
        return self


class PacedTurn(Turn):
    """The samples of one pass at a rate; due_s: when each frame was due, on the clock of start_s."""

    due_s: list[FiniteFloat]

    @model_validator(mode="after")
    def _on_time(self) -> PacedTurn:
        if len(self.due_s) != len(self.start_s):
            raise ValueError("as many due times as starts are needed")
        if any(start < due - 1e-6 for start, due in zip(self.start_s, self.due_s, strict=True)):
            raise ValueError("an inference starts before its frame was due")
        if any(later <= due for due, later in zip(self.due_s[:-1], self.due_s[1:], strict=True)):
            raise ValueError("the frames are not in order")
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
