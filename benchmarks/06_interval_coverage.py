"""How often the 95 % intervals hold the truth, on made latencies whose true percentiles are known.

    python benchmarks/06_interval_coverage.py --trials 2000

Kinds: independent (log-normal, skewed, bimodal), neighbours correlated inside a pass, passes that differ in level. Beside the
intervals in force stand those that take the samples for independent. "Beyond" are kinds, in the shape of a search, between those
whose high percentiles can be told and those whose cannot: there an interval is given where the passes happen to look alike.
Ratios are of 6, 9, 11 and 15 rounds.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from common import save
from numpy.typing import NDArray
from scipy import optimize, signal, stats

from toolchain.measurement.stats import QUANTILES, Percentile, percentile, ratio_of_rounds, summarize

Passes = NDArray[np.float64]  # (passes, runs) ms
Make = Callable[[np.random.Generator, int, int], Passes]
SPREAD, BASE_MS = 0.1, 10.0


def lognormal(rng: np.random.Generator, passes: int, runs: int) -> Passes:
    return BASE_MS * np.exp(SPREAD * rng.normal(size=(passes, runs)))


def skewed(rng: np.random.Generator, passes: int, runs: int) -> Passes:
    return BASE_MS * (1 + SPREAD * rng.exponential(size=(passes, runs)) ** 1.5)


def bimodal(rng: np.random.Generator, passes: int, runs: int) -> Passes:
    return BASE_MS * (np.where(rng.random((passes, runs)) < 0.3, 1.3, 1.0) + 0.01 * rng.normal(size=(passes, runs)))


def correlated(rng: np.random.Generator, passes: int, runs: int, keep: float) -> Passes:
    noise = rng.normal(size=(passes, runs)) * np.sqrt(1 - keep**2)
    noise[:, 0] = rng.normal(size=passes)
    return BASE_MS * np.exp(SPREAD * signal.lfilter([1], [1, -keep], noise, axis=1))


def levels(rng: np.random.Generator, passes: int, runs: int, share: float) -> Passes:
    return lognormal(rng, passes, runs) * np.exp(SPREAD * share * rng.normal(size=(passes, 1)))


def normal_quantile(q: float, scale: float = 1.0) -> float:
    return float(BASE_MS * np.exp(SPREAD * scale * stats.norm.ppf(q)))


def bimodal_quantile(q: float) -> float:
    def below(x: float) -> float:
        return float(0.7 * stats.norm.cdf((x - 1) / 0.01) + 0.3 * stats.norm.cdf((x - 1.3) / 0.01) - q)

    return BASE_MS * float(optimize.brentq(below, 0.5, 2))


def skewed_quantile(q: float) -> float:
    return float(BASE_MS * (1 + SPREAD * stats.expon.ppf(q) ** 1.5))


Kind = tuple[Make, Callable[[float], float]]


def neighbours(keep: float) -> dict[str, Kind]:
    return {f"neighbours correlated {keep}": (partial(correlated, keep=keep), normal_quantile)}


def passes_differ(share: float) -> dict[str, Kind]:
    truth = partial(normal_quantile, scale=float(np.hypot(1, share)))
    return {f"passes differ by {share} of the spread": (partial(levels, share=share), truth)}


KINDS: dict[str, Kind] = {
    "independent, log-normal": (lognormal, normal_quantile),
    "independent, skewed": (skewed, skewed_quantile),
    "independent, bimodal": (bimodal, bimodal_quantile),
    **neighbours(0.2), **neighbours(0.5), **neighbours(0.9), **neighbours(0.99),
    **passes_differ(0.03), **passes_differ(0.1), **passes_differ(0.3),
}  # fmt: skip
BEYOND: dict[str, Kind] = {
    **neighbours(0.8),
    **neighbours(0.95),
    **passes_differ(0.5),
    **passes_differ(1.0),
    **passes_differ(2.0),
}
ROUNDS = (6, 9, 11, 15)
SHAPES = {"quick": (11, 20), "search": (9, 100), "report": (9, 1000)}  # passes, runs of an engine of 10 ms


class Count:
    """Hits of one way to make an interval."""

    def __init__(self) -> None:
        self.trials = self.given = self.hits = 0
        self.width = 0.0

    def add(self, low: float | None, high: float | None, truth: float) -> None:
        self.trials += 1
        if low is not None and high is not None:
            self.given += 1
            self.hits += low <= truth <= high
            self.width += (high - low) / truth

    def to_json(self) -> dict[str, Any]:
        """Coverage of the intervals that were given, and how often one was given and wrong."""
        coverage = self.hits / self.given if self.given else None
        wrong = (self.given - self.hits) / self.trials
        width = self.width / self.given if self.given else None
        return {"given": self.given / self.trials, "coverage": coverage, "given_and_wrong": wrong, "mean_width": width}


def of_kind(kind: Kind, shape: str, trials: int, seed: int) -> dict[str, Any]:
    """Every percentile of one kind of latencies."""
    make, truth = kind
    rng, (passes, runs) = np.random.default_rng(seed), SHAPES[shape]
    counts = {name: {way: Count() for way in ("in_force", "independent")} for name in QUANTILES}
    for _ in range(trials):
        made = make(rng, passes, runs)
        found = summarize(made.ravel(), [runs] * passes)
        for name, q in QUANTILES.items():
            force: Percentile = getattr(found, name)
            plain, true = percentile(made.ravel(), q), truth(q)
            counts[name]["in_force"].add(force.low, force.high, true)
            counts[name]["independent"].add(plain.low, plain.high, true)
    return {name: {way: one.to_json() for way, one in ways.items()} for name, ways in counts.items()}


def ratios(rounds: int, trials: int, seed: int) -> dict[str, Any]:
    """Ratio of two engines by rounds, while both drift together and each pass has a level of its own."""
    rng, count, truth = np.random.default_rng(seed), Count(), 1.7
    for _ in range(trials):
        drift = np.exp(0.2 * np.linspace(0, 1, rounds) + 0.02 * rng.normal(size=rounds))[:, None]
        base = levels(rng, rounds, 30, 0.2) * drift
        other = levels(rng, rounds, 30, 0.2) * drift / truth
        found = ratio_of_rounds(list(base), list(other))
        count.add(found.low, found.high, truth)
    return count.to_json()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=2000)
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dry", action="store_true", help="write no file")
    args = parser.parse_args()
    figures: dict[str, Any] = {}
    for rounds in ROUNDS:
        found = figures[f"ratio of {rounds} rounds"] = ratios(rounds, args.trials, args.seed)
        print(f"ratio of {rounds} rounds: {found['coverage']:.1%}", flush=True)
    for title, kinds, shapes in (("", KINDS, args.shapes), ("beyond: ", BEYOND, ["search"])):
        for shape in shapes:
            for name, kind in kinds.items():
                found = figures[f"{title}{shape}: {name}"] = of_kind(kind, shape, args.trials, args.seed)
                cells = "  ".join(f"{percent} {_cell(found[percent])}" for percent in QUANTILES)
                print(f"{title}{shape:7s} {name:38s} {cells}", flush=True)
    if not args.dry:
        save("interval-coverage", figures, {key: value for key, value in vars(args).items() if key != "dry"})


def _cell(found: dict[str, dict[str, Any]]) -> str:
    """Coverage in force, and in brackets that of intervals for independent samples."""
    shown = [
        "  none" if found[way]["coverage"] is None else f"{found[way]['coverage']:6.1%}" for way in ("in_force", "independent")
    ]
    return f"{shown[0]} ({shown[1].strip()}) of {found['in_force']['given']:4.0%}"


if __name__ == "__main__":
    main()
