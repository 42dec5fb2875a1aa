"""`summary.json`: all a run hands to its report. Unknown keys are refused, so a misspelt one cannot vanish."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from toolchain.errors import RunFolderError
from toolchain.report.variant import Variant

FILE_NAME = "summary.json"


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Model(_Part):
    """The network that came in. `names` is index -> class name, or a list."""

    source: str
    sha256: str | None = None
    names: dict[int, str] | list[str] | None = None
    imgsz: int | None = None


class Data(_Part):
    """The pictures accuracy was measured on. `shared_with_train`: how many of them training also saw; None if not checked."""

    yaml: str
    sha256: str | None = None
    split: str | None = None
    images: int | None = None
    shared_with_train: int | None = None


class Layer(_Part):
    """Output channels of one convolution before and after the cut; `reason` says why a layer kept all of them.

    `now`: its name in the pruned network, where that is known.
    """

    name: str
    now: str | None = None
    dense: int = Field(gt=0)
    kept: int = Field(ge=0)
    group: str | None = None
    reason: str | None = None


class Reached(_Part):
    """Kept share of the dense network's, 0..1."""

    macs_ratio: float | None = None
    params_ratio: float | None = None
    channels_ratio: float | None = None


class Prune(_Part):
    """How the cut was made. `asked` holds the budget in the user's words or as ratios; `pages` are files that say why."""

    criterion: str
    strategy: str
    asked: dict[str, Any] | str | float | None = None
    reached: Reached = Reached()
    alignment: int | None = None
    pages: list[str] = []


class Epoch(_Part):
    epoch: int
    map50_95: float | None = None
    loss: float | None = None


class Training(_Part):
    epochs: int
    best_epoch: int | None = None
    curve: list[Epoch] = []


class Sensitivity(_Part):
    """Measured harm of narrowing one group alone; `drop` > 0 is worse, in units of `metric`."""

    group: str
    kept_ratio: float = Field(gt=0, le=1)
    drop: float
    metric: str = "map50_95"


class StageTime(_Part):
    name: str
    duration_s: float
    reused: bool = False


class Bounded(_Part):
    """A percentile and its 95 % interval, ms; `reason` says why one is missing."""

    value: float | None
    low: float | None = None
    high: float | None = None
    reason: str | None = None


class LatencySummary(BaseModel):
    """Statistics of an engine's latency as the benchmark gave them: nothing is computed anew from the samples."""

    model_config = ConfigDict(extra="allow", frozen=True)

    n: int
    max: float
    p50: Bounded
    p90: Bounded
    p95: Bounded
    p99: Bounded
    slow_count: int


class EngineSamples(BaseModel):
    """Latencies of one engine, all of them, in order; inline or in a .json or .npy file beside the report."""

    model_config = ConfigDict(extra="allow", frozen=True)

    label: str
    latency_ms: LatencySummary
    samples_ms: list[float] | None = None
    samples_path: str | None = None
    sha256: str | None = None


class Bench(BaseModel):
    """The measurement session. Further keys of the record are kept and shown."""

    model_config = ConfigDict(extra="allow", frozen=True)

    device: dict[str, Any] | None = None
    engines: list[EngineSamples] = []
    valid: bool | None = None
    reasons: list[str] = []
    threads: int | None = None
    provider: str | None = None
    runtime_version: str | None = None
    control: dict[str, Any] | None = None


class LayerProfile(_Part):
    """Time of one layer in the profiles of the dense and the pruned engine, ms; `why` it is not faster, None if it is."""

    layer: str
    op: str
    dense_ms: float = Field(ge=0)
    pruned_ms: float = Field(ge=0)
    dense: int | None = None
    kept: int | None = None
    why: str | None = None


class Int8(_Part):
    recipe: str
    images: int | None = None
    float_map: float | None = None
    int8_map: float | None = None
    max_drop: float | None = None


class FindingRow(_Part):
    title: str
    severity: Literal["ok", "warning", "problem"]
    numbers: dict[str, Any] = {}
    next: str = ""


class Summary(_Part):
    """See the module. Every part but title, created and command may be absent; the report then says so.

    Of the variants the first is the dense network, what the others are compared with, and the last is what is deployed.
    """

    title: str
    created: str
    command: str
    model: Model | None = None
    data: Data | None = None
    variants: list[Variant] = []
    layers: list[Layer] = []
    prune: Prune | None = None
    training: Training | None = None
    sensitivity: list[Sensitivity] | None = None
    stages: list[StageTime] = []
    bench: Bench | None = None
    profile: list[LayerProfile] = []
    int8: Int8 | None = None
    diagnosis: list[FindingRow] = []
    versions: dict[str, str | None] = {}


def parse_summary(value: object, source: str = "summary") -> Summary:
    """Check a summary.

    Raises:
        RunFolderError: a key is unknown, missing or of the wrong type; names the first ones.
        MeasurementError: a variant holds a value no measurement can give.
    """
    try:
        return Summary.model_validate(value)
    except ValidationError as error:
        wrong = [f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors()[:5]]
        raise RunFolderError(f"{source} does not fit the schema", got="; ".join(wrong)) from error


def read_summary(folder: Path) -> Summary:
    """The summary of a run folder.

    Raises:
        RunFolderError: there is none, or it does not fit the schema.
    """
    path = folder / FILE_NAME
    try:
        value = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise RunFolderError("not a finished run", got=f"no {FILE_NAME} in {folder}", fix="toolchain run RUN.toml") from error
    except (OSError, ValueError) as error:
        raise RunFolderError("cannot read a file of the run", got=f"{path}: {error}") from error
    return parse_summary(value, str(path))
