"""`select.json` as its page reads it: every part but the outcome may be absent, and further keys are passed over."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from toolchain.errors import RunFolderError


class _Part(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class Round(_Part):
    """One turn of the loop. Latencies are shares of the dense engine's; `error` is the relative standard error of `measured`.
    `others`: the same of other goals, such as energy."""

    predicted: float
    measured: float
    error: float
    loss: float
    gap: float | None = None
    solver_s: float | None = None
    others: dict[str, dict[str, float]] = {}


class Quality(_Part):
    """How well the latency model predicts plans it has not seen; all but the number of plans and τ are relative."""

    plans: int
    mape: float
    bias: float
    kendall_tau: float


class Model(_Part):
    """The latency model. `block`: widths count rounded up to it, `exact_reads`: but not those that are read, `ragged`: outputs
    left over of such a block cost something; `prior`: what it was drawn to.
    """

    held_out: Quality | None = None
    block: int = 1
    exact_reads: bool = False
    ragged: int = 0
    ridge: float | None = None
    prior: str | None = None


class Layer(_Part):
    """A group of layers; `saved` is a share of the dense engine's latency, the `_share`s are parts of the whole plan's."""

    group: str
    channels: int
    halves: int = 1
    kept: int
    kind: str
    why: str
    loss: float = 0.0
    loss_share: float = 0.0
    saved: float = 0.0
    saved_share: float = 0.0


class Measured(_Part):
    """A timed engine that differs from the chosen one in one group alone."""

    width: int
    saved: float
    error: float


class Stairs(_Part):
    """Latency saved at each width of a group, as shares of the dense engine's; `dropped` widths buy nothing."""

    group: str
    kept: int
    widths: list[int] = Field(min_length=1)
    saved: list[float]
    dropped: list[int] = []
    points: list[Measured] = []


class Staircase(_Part):
    """`widths`: how many there were to choose from, over all groups; `dropped`: group -> those that buy nothing."""

    block: int = 1
    exact_reads: bool = False
    ragged: int = 0
    widths: int = 0
    dropped: dict[str, list[int]] = {}
    stairs: list[Stairs] = []


class FrontPoint(_Part):
    """The best plan for one budget; `latency` is predicted, as a share of the dense engine's."""

    share: float
    latency: float
    loss: float
    gap: float | None = None


class Front(_Part):
    points: list[FrontPoint] = []
    failed: dict[str, str] = {}


class Pair(_Part):
    predicted: float
    measured: float


class Agreement(_Part):
    """Where the value of a width comes from, and whether the sum of single losses tells the loss of whole plans."""

    kind: str
    joint: list[Pair] = []
    spearman: float | None = None
    pearson: float | None = None


class Candidate(_Part):
    """A network and picture size that was considered; shares are of the first one's dense latency."""

    model: str
    imgsz: int
    uncut: float | None = None
    share: float | None = None
    loss: float | None = None
    trial_map: float | None = None
    why_not: str | None = None
    chosen: bool = False


class Energy(_Part):
    """The energy budget, as a share of the dense engine's total energy of an inference, and what was read."""

    share: float
    dense_mj: float
    scope: str | None = None


class Spent(_Part):
    """What a stage cost: seconds of this run and of earlier ones in the same folder, of them the device's; memory of the process
    before it and at most; pieces of work done now and kept from before."""

    stage: str
    wall_s: float
    device_s: float = 0.0
    earlier_wall_s: float = 0.0
    earlier_device_s: float = 0.0
    before_mb: float | None = None
    peak_mb: float | None = None
    no_memory: str | None = None
    done: int = 0
    kept: int = 0


class Reached(_Part):
    """Shares of the dense network that are gone."""

    channels: float
    macs: float
    params: float


class Selection(_Part):
    """See the module. `share` is the budget, `measured` what was reached: of the latency of the first dense engine.

    `uncut` is the latency of this network's own dense engine, in the same unit; rounds, layers, staircase and front are shares of
    its `dense_ms`. `rate`: loss per share of latency at which the plan trades.
    """

    budgets: list[str] = []
    share: float
    limited: bool = True
    measured: float
    error: float
    uncut: float = 1.0
    energy: Energy | None = None
    rounds: list[Round] = Field(min_length=1)
    timings: int | None = None
    reached: Reached | None = None
    strategy: str | None = None
    criterion: str | None = None
    align: int | None = None
    dense_ms: float | None = None
    predicted_loss: float | None = None
    rate: float | None = None
    latency_model: Model = Model()
    layers: list[Layer] = []
    staircase: Staircase = Staircase()
    front: Front = Front()
    value: Agreement | None = None
    candidates: list[Candidate] = []
    spent: list[Spent] = []
    model: str | None = None
    imgsz: int | None = None
    store: str | None = None
    device: dict[str, Any] = {}
    setting: dict[str, Any] = {}
    versions: dict[str, str | None] = {}
    created: str | None = None
    command: str | None = None


def parse_selection(value: object, source: str = "select.json") -> Selection:
    """Check a result of `toolchain select`.

    Raises:
        RunFolderError: a key is missing or of the wrong type; names the first ones.
    """
    try:
        return Selection.model_validate(value)
    except ValidationError as error:
        wrong = [f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors()[:5]]
        raise RunFolderError(f"{source} is not a selection's", got="; ".join(wrong), fix="select again") from error
