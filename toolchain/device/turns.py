"""Engine and reference in short turns, and what their latencies say where strangers use the processor too."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from statistics import mean, median, stdev

from toolchain.device.bench import PAUSE_S
from toolchain.device.engine_messages import Turn
from toolchain.device.messages import check
from toolchain.device.session import AgentSession

RUNS = 6  # inferences a turn that count
LEAD_RUNS = 4  # before them, while caches and clock come back from the other engine: the first takes up to 1.4 times as long
ROUNDS, PAIR_SPREAD = 4, 0.02  # most times it meets each; once is enough where the ratios lie so close together
LEAST_PAIRS = 2  # undisturbed ones of a load
UNKNOWN = 1.0  # relative error of what was seen once
DISTURBED = 0.15  # above an undisturbed turn: neither the luck of a load, which is up to 6 %, nor a step of the clock
REMEMBERED = 5  # engines

Pair = tuple[float, float]  # medians of a turn of the engine and of the reference's beside it, ms


@dataclass
class Turns:
    """What was measured of one engine: pairs of turns, by load of the engine."""

    loads: list[list[Pair]] = field(default_factory=list)

    @property
    def engine_ms(self) -> list[float]:
        """Every turn, load after load."""
        return [engine for load in self.loads for engine, _ in load]

    @property
    def reference_ms(self) -> list[float]:
        """Every turn, load after load."""
        return [reference for load in self.loads for _, reference in load]


def one_load(agent: AgentSession, bases: Sequence[AgentSession], turns: Turns) -> None:
    """A load of the engine beside those references: short turns in pairs, more of them where the ratios lie apart."""
    load: list[Pair] = []
    turns.loads.append(load)
    for _ in range(ROUNDS):
        for base in bases:
            if len(load) % 2:  # neither is always the first
                reference_ms, engine_ms = _turn(base), _turn(agent)
            else:
                engine_ms, reference_ms = _turn(agent), _turn(base)
            load.append((engine_ms, reference_ms))
        ratios = [engine / reference for engine, reference in load]
        if max(ratios) <= (1 + PAIR_SPREAD) * min(ratios):
            return


def _turn(session: AgentSession) -> float:
    time.sleep(PAUSE_S)
    return median(check(Turn, session.request("go", timeout_s=120.0, lead_runs=LEAD_RUNS, runs=RUNS)).latency_ms)


def compared(turns: Turns) -> tuple[float, float]:
    """Engine / reference and its relative standard error: the median of the pairs of each load, averaged over loads.

    The two turns of a pair are within a tenth of a second, so a clock that moves is in both. A pair one of whose turns took
    far longer than such turns can was disturbed and does not count, nor does a load with hardly another.
    """
    most_engine, most_reference = ((1 + DISTURBED) * undisturbed(each) for each in (turns.engine_ms, turns.reference_ms))
    calm = [[e / r for e, r in load if e <= most_engine and r <= most_reference] for load in turns.loads]
    ratios = [median(load) for load in calm if len(load) >= LEAST_PAIRS]
    if len(ratios) < 2:
        return median(e / r for load in turns.loads for e, r in load), UNKNOWN
    return mean(ratios), min(stdev(ratios) / len(ratios) ** 0.5 / mean(ratios), UNKNOWN)


def undisturbed(turns_ms: Sequence[float]) -> float:
    """What a turn takes that nothing disturbs: the tenth percentile, since a few may meet a clock raised for a moment."""
    return sorted(turns_ms)[len(turns_ms) // 10]


class Calm:
    """Whether the processor is as fast as it was of late: the references' undisturbed turns say so, of engine after engine."""

    def __init__(self, earlier_ms: Iterable[float]) -> None:
        self.earlier_ms = deque(earlier_ms, maxlen=REMEMBERED)

    @classmethod
    def of(cls, bases: Sequence[AgentSession], earlier_ms: Sequence[float]) -> Calm:
        """By two turns of each reference, and what they took beside the last engines timed before."""
        return cls([*earlier_ms, undisturbed([_turn(base) for base in (*bases, *bases)])])

    def reached(self, turns: Turns) -> bool:
        """False where every turn of the references was disturbed."""
        return undisturbed(turns.reference_ms) <= (1 + DISTURBED) * min(self.earlier_ms)

    def keep(self, turns: Turns) -> None:
        """Remember it; after some engines a slower processor is how it is now, not a disturbance."""
        self.earlier_ms.append(undisturbed(turns.reference_ms))
