"""How often the 95 % intervals hold the truth, on made latencies whose true percentiles are known.

    python benchmarks/06_interval_coverage.py --trials 2000

Kinds: independent (log-normal, skewed, bimodal), neighbours correlated inside a pass, passes that differ in level. Beside the
intervals in force stand those of independent samples, and of a block bootstrap, which was tried and covers too little.
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


KINDS: dict[str, tuple[Make, Callable[[float], float]]] = {
    "independent, log-normal": (lognormal, normal_quantile),
    "independent, skewed": (skewed, skewed_quantile),
    "independent, bimodal": (bimodal, bimodal_quantile),
    **{f"neighbours correlated {keep}": (partial(correlated, keep=keep), normal_quantile) for keep in (0.2, 0.5, 0.9, 0.99)},
    **{
        f"passes differ by {share} of the spread": (
            partial(levels, share=share), partial(normal_quantile, scale=float(np.hypot(1, share))),
        )
        for share in (0.03, 0.1, 0.3)
    },
}  # fmt: skip
SHAPES = {"quick": (11, 20), "search": (9, 100), "report": (9, 1000)}  # passes, runs of an engine of 10 ms


def bootstrap(passes: Passes, q: float, rng: np.random.Generator, draws: int = 400) -> tuple[float, float]:
    """Interval of a block bootstrap whose blocks are the passes."""
    found = [np.quantile(passes[rng.integers(0, len(passes), len(passes))], q, method="inverted_cdf") for _ in range(draws)]
    low, high = np.quantile(found, [0.025, 0.975])
    return float(low), float(high)


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


def of_kind(kind: str, shape: str, trials: int, seed: int, with_bootstrap: bool) -> dict[str, Any]:
    """Every percentile of one kind of latencies."""
    make, truth = KINDS[kind]
    rng, (passes, runs) = np.random.default_rng(seed), SHAPES[shape]
    counts = {name: {way: Count() for way in ("in_force", "independent", "bootstrap")} for name in QUANTILES}
    for _ in range(trials):
        made = make(rng, passes, runs)
        found = summarize(made.ravel(), [runs] * passes)
        for name, q in QUANTILES.items():
            force: Percentile = getattr(found, name)
            plain, true = percentile(made.ravel(), q), truth(q)
            counts[name]["in_force"].add(force.low, force.high, true)
            counts[name]["independent"].add(plain.low, plain.high, true)
            if with_bootstrap and name in ("p50", "p90"):
                counts[name]["bootstrap"].add(*bootstrap(made, q, rng), true)
    return {name: {way: one.to_json() for way, one in ways.items() if one.trials} for name, ways in counts.items()}


def ratios(trials: int, seed: int) -> dict[str, Any]:
    """Ratio of two engines by rounds, while both drift together and each pass has a level of its own."""
    rng, count, truth = np.random.default_rng(seed), Count(), 1.7
    for _ in range(trials):
        drift = np.exp(0.2 * np.linspace(0, 1, 9) + 0.02 * rng.normal(size=9))[:, None]
        base = levels(rng, 9, 30, 0.2) * drift
        other = levels(rng, 9, 30, 0.2) * drift / truth
        found = ratio_of_rounds(list(base), list(other))
        count.add(found.low, found.high, truth)
    return count.to_json()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=2000)
    parser.add_argument("--bootstrap-trials", type=int, default=300, help="trials of the bootstrap, which is slow; 0: none")
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dry", action="store_true", help="write no file")
    args = parser.parse_args()
    figures: dict[str, Any] = {"ratio of 9 rounds": ratios(args.trials, args.seed)}
    print(f"ratio of 9 rounds: {figures['ratio of 9 rounds']['coverage']:.1%}")
    for shape in args.shapes:
        for kind in KINDS:
            found = figures[f"{shape}: {kind}"] = of_kind(kind, shape, args.trials, args.seed, with_bootstrap=False)
            if args.bootstrap_trials and shape == "search":
                more = of_kind(kind, shape, args.bootstrap_trials, args.seed, with_bootstrap=True)
                for name in ("p50", "p90"):
                    found[name]["bootstrap"] = more[name]["bootstrap"]
            cells = [_cell(found[name]) for name in QUANTILES]
            print(f"{shape:7s} {kind:38s} " + "  ".join(f"{name} {cell}" for name, cell in zip(QUANTILES, cells, strict=True)))
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
