"""What a device says about its power: which sources can be read, what a sampler read, and what the load did."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Literal

from pydantic import Field, FiniteFloat, model_validator

from toolchain.device.messages import Count, Message, Path_, Positive, Sha256, Text

Rails = Annotated[list[Text], Field(min_length=1, max_length=64)]


class Reader(Message):
    """What a source's reader reads.

    Attributes:
        update_ms: refresh by the driver's own words.
        quantum: least step of each rail, W or J, where known.
        wrap_j: range of a counter.
        averages: a value is the mean over the refresh before it.
    """

    unit: Literal["W", "J"]
    rails: Rails
    paths: dict[Text, Text]
    update_ms: FiniteFloat | None
    quantum: dict[Text, Positive]
    wrap_j: Positive | None
    averages: bool
    settings: dict[Text, Text | int | None]


class Readable(Reader):
    """A source that can be read.

    Attributes:
        refresh_s: time between new values as seen, or None with `refresh_unknown`.
        last: value of each rail, W or J.
    """

    readable: Literal[True]
    refresh_s: Positive | None
    refresh_unknown: Text | None
    readings: Count
    last: dict[Text, FiniteFloat | None]


class Unreadable(Message):
    readable: Literal[False]
    reason: Literal["no_sensor", "permission", "unknown_rail_map", "sampler_failed"]
    detail: Text
    fix: Text


class PowerProbe(Message):
    """Every source of a target, in its order."""

    sources: Annotated[list[Readable | Unreadable], Field(max_length=16)]


class Sampled(Message):
    """What a sampler leaves: a file of readings.

    Attributes:
        gaps: readings in which a rail could not be read.
    """

    path: Path_
    sha256: Sha256
    size: Annotated[int, Field(ge=0, le=256 << 20)]
    readings: Count
    gaps: Count
    settings: dict[Text, Text | int | None]
    refresh_s: Positive | None
    refresh_unknown: Text | None


class Phase(Message):
    """One phase of the load, on the device's monotonic clock."""

    name: Text
    load: bool
    start_s: FiniteFloat
    end_s: FiniteFloat
    start_unix: FiniteFloat


class PhaseBegins(Message):
    phase: Text
    seconds: Positive


class LoadAnswer(Message):
    """What the load did, and a file of the start and end of every inference, s."""

    phases: Annotated[list[Phase], Field(min_length=1, max_length=64)]
    inferences: Count
    load_ms: Positive
    first_inference_ms: Positive
    provider: Text
    options: dict[Text, Text | int | float | bool]
    runtime_version: Text
    rss_mb: Positive | None
    path: Path_
    sha256: Sha256
    size: Annotated[int, Field(ge=0, le=128 << 20)]

    @model_validator(mode="after")
    def _in_order(self) -> LoadAnswer:
        edges = [edge for phase in self.phases for edge in (phase.start_s, phase.end_s)]
        if any(later < earlier for earlier, later in pairwise(edges)):
            raise ValueError("phases overlap or run backwards")
        return self
