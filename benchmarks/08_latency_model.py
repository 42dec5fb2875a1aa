"""How well the latency of plans nobody has timed is told: the model of whole engines against the sum of single layers.

    python benchmarks/08_latency_model.py --model best.pt --data data.yaml --imgsz 320 --precision int8 --out runs/latency

Both learn from the same device; both are judged on held-out plans timed afterwards in the same session. With --twice each is
timed again in processes of its own; the mean counts, and how well one timing tells the other is the best any model could do.
Timings already in the store of this device are used again.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import numpy as np
import onnx
from common import save

from toolchain.device.probe import probe
from toolchain.device.settings import On
from toolchain.device.sweep import Candidate, Timing, steady
from toolchain.device.target import load_target
from toolchain.pruning.groups import Network
from toolchain.pruning.prune import analyse
from toolchain.selection import latency
from toolchain.selection.latency import Array, LatencyModel, Prior
from toolchain.selection.learnt import priors_of
from toolchain.selection.sampling import spread_plans
from toolchain.selection.shapes import removable_options
from toolchain.selection.store import folder_of
from toolchain.selection.strategies import Ask, allowed_widths
from toolchain.selection.table import learn_table
from toolchain.selection.timed import Timed, cut, dense_ms, name_of
from toolchain.verbs.selecting import dense_engine
from toolchain.yolo.checkpoint import load_model

PROFILED = 30
HELD_OUT_SEED = 10_000


def again(timed: Timed, plans: list[dict[str, int]], scratch: Path) -> list[Timing]:
    """The same plans timed in other processes."""
    dense = onnx.load(timed.dense)
    cuts = {name_of(plan): partial(cut, dense, timed.network, plan, scratch) for plan in plans}
    return timed.engines([Candidate(f"again {name}", build) for name, build in cuts.items()])


def mean_of(first: Timing, second: Timing) -> Timing:
    """Both timings of a plan as one; half the difference as its error."""
    both = np.array([first.ratio, second.ratio])
    error = float(np.ptp(both) / 2 / both.mean())
    return replace(first, ratio=float(both.mean()), error=error, steady=first.steady and second.steady)


def fit(network: Network, known: list[Timing], priors: dict[str, Prior]) -> LatencyModel:
    """The model of whole engines from these timings."""
    return latency.fit(network, [t.about["widths"] for t in known], [t.ratio for t in known], priors)


def told(model: LatencyModel, plans: list[dict[str, int]]) -> Array:
    """Its predictions."""
    return np.array([model.cost.at(plan) for plan in plans])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("model", "data", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--imgsz", type=int, default=320)
    parser.add_argument("--precision", default="int8", choices=["fp32", "int8"])
    parser.add_argument("--host", default="local")
    parser.add_argument("--target", default="host-cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--samples", type=int, default=100)
    parser.add_argument("--held-out", type=int, default=40)
    parser.add_argument("--twice", action="store_true", help="time held-out plans again")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    on, started = On(args.host, threads=args.threads, target=args.target), time.monotonic()
    network = analyse(load_model(args.model), args.imgsz)[1]
    dense = dense_engine(args.model, args.out, data=args.data, imgsz=args.imgsz, precision=args.precision, on=on)
    timed = Timed(network, dense, folder_of(network, args.imgsz, args.precision, probe(args.host), on), on)
    ask = Ask(align=load_target(args.target).channel_alignment)
    options = removable_options(network, {g.name: allowed_widths(g, ask) for g in network.free})
    known = steady(timed.times(spread_plans(options, args.samples, 0, removals=network.removals)))
    held_out = spread_plans(options, args.held_out, HELD_OUT_SEED, removals=network.removals)
    fresh = timed.times(held_out)
    second = again(timed, held_out, args.out / "again.onnx") if args.twice else fresh
    pairs = [(a, b) for a, b in zip(fresh, second, strict=True) if a.steady and b.steady]
    fresh = steady([mean_of(a, b) for a, b in zip(fresh, second, strict=True)] if args.twice else fresh)
    timed_s = time.monotonic() - started
    priors = priors_of(timed, known)
    model = fit(network, known, priors)
    layers = timed.profiles([t.about["widths"] for t in known[:PROFILED]])
    table = learn_table(network, [t.about["widths"] for t in known[:PROFILED]], layers, model.cost.counting)
    measured = np.array([t.ratio for t in fresh])
    plans = [t.about["widths"] for t in fresh]
    whole = table.at({g: max(w) for g, w in options.items()})
    result = {
        "model": asdict(latency.quality(told(model, plans), measured)),
        "table-sum": asdict(latency.quality(np.array([table.at(p) / whole for p in plans]), measured)),
        "timed-again": asdict(latency.quality(*(np.array([p[i].ratio for p in pairs]) for i in (0, 1)))) if args.twice else None,
        "self-reported": asdict(model.held_out), "counting": model.cost.counting._asdict(), "ridge": model.ridge,
        "prior": model.prior,
        "fewer-samples": [
            {"samples": n, "prior": name, **asdict(latency.quality(told(fit(network, known[:n], given), plans), measured))}
            for n in (25, 50, len(known)) for name, given in ((latency.PLAIN, {}), ("the better of both", priors))
        ],
        "dense_ms": dense_ms(known), "timing_error_median": float(np.median([t.error for t in fresh])),
        "unsteady": args.samples + args.held_out - len(known) - len(fresh), "timed_s": timed_s,
        "predicted": [model.cost.at(p) for p in plans], "measured": measured.tolist(),
    }  # fmt: skip
    config = {key: str(vars(args)[key]) for key in ("imgsz", "precision", "samples", "held_out", "twice", "host", "threads")}
    save(f"latency-model-{args.precision}", result, config)
    for name in ("model", "table-sum", "timed-again"):
        print(name, result[name])
    for row in result["fewer-samples"]:
        print(row)


if __name__ == "__main__":
    main()
