"""What a search can be asked to stay within and measures after every turn, as shares of the dense engine's."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

from toolchain.errors import BudgetError, MeasurementError
from toolchain.pruning.groups import Widths
from toolchain.selection import latency
from toolchain.selection.cost import Cost
from toolchain.selection.latency import LatencyModel
from toolchain.selection.learnt import Learnt
from toolchain.selection.propose import Among
from toolchain.selection.solver import Choice, Limit

TOLERANCE = 0.02
AIM = 0.995  # of the budget: a plan a little below it is as good as one a little above, and never over
NEARBY = 0.1  # of the budget: a plan that misses it by less is grown or narrowed, not chosen anew
NEAR = 3  # how often a plan near the budget counts beside one of the spread

Least = Callable[[Cost], Widths]


class Goal(ABC):
    """A measured quantity with a law that tells it of any plan; the law learns from every plan that is measured.

    Attributes:
        share: most of it, of the dense engine's; None: not limited, only told.
        least: a law -> the plan that takes least by it.
        tolerance: how far off the share still counts as met.
        done: plans tried and what they measured.
    """

    name: str

    def __init__(self, share: float | None, cost: Cost, least: Least) -> None:
        self.share, self.cost, self.least, self.tolerance = share, cost, least, TOLERANCE
        self.done: list[tuple[Widths, float]] = []
        self._correction = 1.0

    @abstractmethod
    def measure(self, widths: Widths) -> tuple[float, float]:
        """Of the plan's engine on the device, over the dense engine's; and the relative standard error of that.

        Raises:
            DeviceError and its kinds; MeasurementError where it could not be measured.
        """

    @abstractmethod
    def fitted(self) -> Cost:
        """The law, fitted to everything measured."""

    def learn(self, widths: Widths, ratio: float) -> None:
        """Take a measured plan into the law, and correct the next limit.

        The solver looks for plans that the law thinks too well of, so the next one will be off in the same way, by less: by the
        mean of what the law had wrong before it saw this plan and of what it still has.
        """
        before = ratio / self.cost.at(widths)
        self.done.append((dict(widths), ratio))
        self.cost = self.fitted()
        self._correction = (before * ratio / self.cost.at(widths)) ** 0.5

    def limits(self) -> list[Limit]:
        """For the next plan: one limit, or none.

        The limit is stretched by what the smallest network really takes where the law has that over the budget.

        Raises:
            BudgetError: the smallest network, as measured, is over the budget.
        """
        if self.share is None:
            return []
        most = self.share * AIM / self._correction
        least = self.least(self.cost)
        if (lowest := self.cost.at(least)) > most:
            measured = self.measure(least)[0]
            if measured > self.share:
                raise BudgetError(
                    f"the {self.name} budget cannot be reached by narrower layers", got=f"{self.share:.3f} of the dense engine's",
                    fix=f"the narrowest network measured {measured:.3f}; a smaller picture (--imgsz) goes further",
                )  # fmt: skip
            most = lowest * self.share / measured
        return [Limit(self.name, self.cost, most)]

    def around(self) -> tuple[Limit, Among] | None:
        """The plans measured next below and next above the budget, and the limit that a plan between them is to have.

        What the law has wrong of a plan it has wrong of those that differ little from it: between two plans by a share of each,
        so the limit is interpolated. Before there are two, the one bounds the next on its side where it is near the budget.
        None before that, and where the law has the two in another order.
        """
        if self.share is None:
            return None
        aim = self.share * AIM
        below = max((one for one in self.done if one[1] <= aim), key=lambda one: one[1], default=None)
        above = min((one for one in self.done if one[1] > aim), key=lambda one: one[1], default=None)
        if below is not None and above is not None:
            low, high = self.cost.at(below[0]), self.cost.at(above[0])
            most = low + (aim - below[1]) / (above[1] - below[1]) * (high - low)
            return (Limit(self.name, self.cost, most), (below[0], above[0])) if low < high else None
        only = below or above
        if only is None or abs(only[1] / aim - 1) > NEARBY:
            return None
        most = self.cost.at(only[0]) * aim / only[1]
        return Limit(self.name, self.cost, most), (below and below[0], above and above[0])

    def within(self, ratio: float) -> bool:
        """Whether it is not above the budget."""
        return self.share is None or ratio <= self.share * (1 + self.tolerance)

    def close(self, ratio: float) -> bool:
        """Whether it is neither above nor below the budget."""
        return self.share is None or (self.within(ratio) and ratio >= self.share * (1 - self.tolerance))

    def met(self, ratio: float, choice: Choice, limits: Sequence[Limit]) -> bool:
        """Within the tolerance; or below it, where another budget, or how coarse the plans are, is what holds it back."""
        if self.share is None:
            return True
        most = next(limit.most for limit in limits if limit.name == self.name)
        slack = choice.costs[self.name] / most < 1 - TOLERANCE
        return self.close(ratio) or (self.within(ratio) and slack)


class LatencyGoal(Goal):
    """Latency, by the model of whole engines or by the table of single layers."""

    name = "latency"

    def __init__(self, learnt: Learnt, share: float | None, least: Least) -> None:
        super().__init__(share, learnt.cost, least)
        self.learnt, self.model = learnt, learnt.model

    def measure(self, widths: Widths) -> tuple[float, float]:
        timing = self.learnt.timed.times([widths])[0]
        if not timing.steady:
            raise MeasurementError(
                "the latency of a plan could not be measured: unsteady each time", got=f"{timing.ratio:.3f} ± {timing.error:.1%}",
                fix="stop other work on the device (`toolchain doctor` says what runs) and run it again: it goes on",
            )  # fmt: skip
        return timing.ratio, timing.error

    def fitted(self) -> Cost:
        if self.learnt.table is not None:
            return self.learnt.table
        self.model = self._fit()
        return self.model.cost

    def _fit(self) -> LatencyModel:
        known, near = self.learnt.known, [one for one in self.done for _ in range(NEAR)]
        plans = [timing.about["widths"] for timing in known] + [widths for widths, _ in near]
        ratios = [timing.ratio for timing in known] + [ratio for _, ratio in near]
        return latency.fit(self.learnt.timed.network, plans, ratios, self.learnt.priors)
