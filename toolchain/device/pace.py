"""How long and how often engines are timed: the profiles quick, search and report.

One pass is one turn of one engine; a round is one pass of every engine.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from toolchain.errors import UnknownNameError, UsageError

NOT_OF_A_ROUND = ("rounds", "changed", "cool_down_s", "post_s", "end_to_end")


@dataclass(frozen=True)
class Pace:
    """A profile in force.

    Attributes:
        name: of the profile; `changed` names what differs from it.
        rounds: rounds of one pass an engine.
        runs, pass_s: a pass takes at least both.
        cap_s: a pass that has not reached them ends here; then the samples decide what may be said.
        lead_runs: runs at the start of each pass that do not count.
        warmup_runs, warmup_s: the warm-up before the first round takes at least both.
        settle_cap_s: the warm-up goes on until the latency stands still, at most so long; 0: it does not wait for that.
        cool_down_s: longest wait before the first round for the temperature the benchmark once began at; 0: not waited for.
        post_s: rest before the device's state is read again: its counters refresh about every 2 s.
        end_to_end: whether whole detections are timed too.
        end_pass_s: length of their passes.
    """

    name: str
    rounds: int
    runs: int
    pass_s: float
    cap_s: float
    lead_runs: int
    warmup_runs: int
    warmup_s: float
    settle_cap_s: float
    cool_down_s: float
    post_s: float
    end_to_end: bool
    end_pass_s: float
    changed: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        least = {"rounds": 1, "runs": 1}
        for key, value in asdict(self).items():
            if isinstance(value, (int, float)) and not isinstance(value, bool) and not least.get(key, 0) <= value <= 86400:
                raise UsageError(f"{key} is out of range", got=value, fix=f"{least.get(key, 0)} to 86400")

    def pass_fields(self, seconds: float | None = None) -> dict[str, Any]:
        """What the agent must know about a pass."""
        length = self.pass_s if seconds is None else seconds
        return {"runs": self.runs, "seconds": length, "cap_s": self.cap_s, "lead_runs": self.lead_runs}

    def warmup_fields(self) -> dict[str, Any]:
        """What the agent must know about the warm-up."""
        return {"warmup_runs": self.warmup_runs, "warmup_s": self.warmup_s, "settle_cap_s": self.settle_cap_s}

    def to_json(self) -> dict[str, Any]:
        """Plain dict for JSON."""
        return {**asdict(self), "changed": list(self.changed)}

    def of_a_round(self) -> dict[str, Any]:
        """What makes rounds alike: more of them may follow later."""
        return {key: value for key, value in self.to_json().items() if key not in NOT_OF_A_ROUND}


PACES = {
    "quick": Pace(
        name="quick", rounds=11, runs=20, pass_s=0.0, cap_s=600.0, lead_runs=0, warmup_runs=20, warmup_s=1.0, settle_cap_s=0.0,
        cool_down_s=0.0, post_s=0.0, end_to_end=False, end_pass_s=0.0,
    ),
    "search": Pace(  # 9 passes of a second: 9 s an engine
        name="search", rounds=9, runs=10, pass_s=1.0, cap_s=60.0, lead_runs=3, warmup_runs=50, warmup_s=5.0, settle_cap_s=60.0,
        cool_down_s=0.0, post_s=2.0, end_to_end=False, end_pass_s=0.5,
    ),
    "report": Pace(  # 9 passes of 10 s and 112 runs: 90 s and 1008 runs an engine, at most 10 min
        name="report", rounds=9, runs=112, pass_s=10.0, cap_s=66.0, lead_runs=10, warmup_runs=50, warmup_s=5.0,
        settle_cap_s=120.0, cool_down_s=300.0, post_s=2.0, end_to_end=True, end_pass_s=3.0,
    ),
}  # fmt: skip


def pace_of(name: str, **changes: Any) -> Pace:
    """A profile by name with what differs from it; None leaves a value as it is.

    Raises:
        UnknownNameError, UsageError: no such profile, or a value out of range.
    """
    if name not in PACES:
        raise UnknownNameError("profile", name, PACES)
    usual = PACES[name]
    given = {key: value for key, value in changes.items() if value is not None and value != getattr(usual, key)}
    return replace(usual, **given, changed=tuple(given))
