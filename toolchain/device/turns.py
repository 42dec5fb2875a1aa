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

RUNS = 6  # inferences a turn
ROUNDS, PAIR_SPREAD = 4, 0.02  # most times it meets each; once is enough where the ratios lie so close together
UNKNOWN = 1.0  # relative error of what was seen once
FASTEST = 3  # inferences of a load that stand for it
DISTURBED = 0.1  # above the fastest: no luck of a load, which is up to 6 %
REMEMBERED = 5  # engines


@dataclass
class Turns:
    """What was measured of one engine: latencies of single inferences, by load of the engine and by process of the reference."""

    loads: list[list[float]] = field(default_factory=list)
    references: dict[int, list[float]] = field(default_factory=dict)
    engine_ms: list[float] = field(default_factory=list)
    reference_ms: list[float] = field(default_factory=list)


def one_load(agent: AgentSession, bases: Sequence[AgentSession], met: Sequence[int], turns: Turns) -> None:
    """A load of the engine beside those references: short turns in pairs, more of them where the ratios lie apart."""
    turns.loads.append([])
    ratios: list[float] = []
    for _ in range(ROUNDS):
        for number in met:
            other = turns.references.setdefault(number, [])
            pair = [(agent, turns.loads[-1], turns.engine_ms), (bases[number], other, turns.reference_ms)]
            for session, kept, medians in pair if len(turns.engine_ms) % 2 else pair[::-1]:
                latencies = _turn(session)
                kept += latencies
                medians.append(median(latencies))
            ratios.append(turns.engine_ms[-1] / turns.reference_ms[-1])
        if max(ratios) <= (1 + PAIR_SPREAD) * min(ratios):
            return


def _turn(session: AgentSession) -> list[float]:
    time.sleep(PAUSE_S)
    return check(Turn, session.request("go", timeout_s=120.0, runs=RUNS)).latency_ms


def compared(loads: Sequence[Sequence[float]], references: Sequence[Sequence[float]]) -> tuple[float, float]:
    """Engine / reference and its relative standard error, by the fastest inferences of every load.

    On a processor shared with strangers medians tell of the strangers: one engine against itself, they scattered by 5 % over
    loads of 2 s, the fastest inferences by 1 %. A load whose fastest are more than a tenth above those of the fastest load was
    disturbed all the time, and does not count; what is left differs by the luck of a load, and is averaged.
    """
    mine, other = _undisturbed(loads), _undisturbed(references)
    if min(len(mine), len(other)) < 2:
        return mean(mine) / mean(other), UNKNOWN
    error = sum(stdev(each) ** 2 / len(each) / mean(each) ** 2 for each in (mine, other)) ** 0.5
    return mean(mine) / mean(other), min(error, UNKNOWN)


def _undisturbed(loads: Iterable[Sequence[float]]) -> list[float]:
    floors = [mean(sorted(each)[:FASTEST]) for each in loads]
    most = (1 + DISTURBED) * min(floors)
    return [floor for floor in floors if floor <= most]


class Calm:
    """Whether the processor is as fast as it was of late: the references' fastest inferences say so, of engine after engine."""

    def __init__(self, floors_ms: Iterable[float]) -> None:
        self.floors = deque(floors_ms, maxlen=REMEMBERED)

    @classmethod
    def of(cls, bases: Sequence[AgentSession], earlier_ms: Sequence[float]) -> Calm:
        """By two turns of each reference, and what its fastest turns took for the last engines timed before."""
        turns = Turns()
        for number in list(range(len(bases))) * 2:
            turns.references.setdefault(number, []).extend(_turn(bases[number]))
        return cls([*earlier_ms, cls._floor(turns)])

    def reached(self, turns: Turns) -> bool:
        """False where every inference of the references was disturbed."""
        return self._floor(turns) <= (1 + DISTURBED) * min(self.floors)

    def keep(self, turns: Turns) -> None:
        """Remember it; after some engines a slower processor is how it is now, not a disturbance."""
        self.floors.append(self._floor(turns))

    @staticmethod
    def _floor(turns: Turns) -> float:
        return min(_undisturbed(turns.references.values()))
