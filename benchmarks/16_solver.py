"""How long the exact choice takes, how close to the best it is proven to be, and its memory: YOLOv8n to x, by a made-up law.

    python benchmarks/16_solver.py

No device and no weights are needed: networks with random weights, a latency of every convolution and Bottleneck drawn around its
multiply-adds, in blocks of 8 and of 16 channels, and losses drawn like saliencies. Every network has a process of its own. The
goals: at most 10 s for YOLOv8n, 60 s for YOLOv8x, proven within 1 % of the best. `cpu_s` is what the process worked: on a machine
that does other things too the wall time is longer.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from common import save

from toolchain.memory import peak_memory
from toolchain.pruning.groups import Network
from toolchain.pruning.prune import analyse
from toolchain.selection import cost as costs
from toolchain.selection.cost import Cost, Counting, Linear, Present
from toolchain.selection.latency import plain_prior
from toolchain.selection.shapes import removable_options
from toolchain.selection.solver import Limit, solve
from toolchain.selection.staircase import useful
from toolchain.selection.strategies import Ask, allowed_widths
from toolchain.selection.value import Loss, fisher
from toolchain.yolo.checkpoint import load_model

GOAL_S, GOAL_GAP = {"n": 10.0, "x": 60.0}, 0.01
LAWS = (Counting(8), Counting(16), Counting(16, exact_reads=True), Counting(ragged=16))
FIXED, BLOCK, LEFT = 0.1, 0.003, 0.003  # shares of the dense latency: of the engine, each Bottleneck, each output left over


def law(network: Network, counting: Counting, seed: int) -> Cost:
    """A latency as the model of whole engines has it, 1 for the dense network."""
    rng, prior = np.random.default_rng(seed), plain_prior(network)
    full = {g.name: g.channels for g in network.free}
    sizes, sides = Cost(counting.block).sizes(full), costs.sides(network, exact_reads=counting.exact_reads)
    terms, products = [], []
    for name, (reads, writes) in sides.items():
        a, b = reads.at(sizes), writes.at(sizes)
        by_reads, by_writes, by_both = np.array(prior[name]) * rng.lognormal(0, 0.5, 3)
        terms += [(by_reads / a, reads), (by_writes / b, writes)]
        products.append((by_both / a / b, reads, writes))
    terms += [(BLOCK * rng.lognormal(0, 0.5), Linear(0.0, {Present(r.hidden): 1.0})) for r in network.removals]
    terms += [(LEFT * rng.lognormal(0, 0.5), one) for one in costs.ragged(sides, counting.ragged).values()]
    drawn = costs.total(counting.block, 0.0, terms, products)
    return costs.scaled(drawn, (1 - FIXED) / drawn.at(full), FIXED)


def losses(network: Network, options: dict[str, list[int]], seed: int) -> Loss:
    """Of saliencies that differ widely between channels and between groups."""
    rng = np.random.default_rng([seed, 1])
    scores = {g.name: [rng.lognormal(0, 1) * rng.lognormal(0, 1.5, g.channels) for _ in g.parts] for g in network.free}
    return fisher(network, scores, options)


def one(size: str, shares: list[float], seed: int) -> list[dict[str, Any]]:
    """All budgets of one network, in this process."""
    network = analyse(load_model(Path(f"yolov8{size}.yaml")), 320)[1]
    options = removable_options(network, {g.name: allowed_widths(g, Ask()) for g in network.free})
    rows = []
    for counting in LAWS:
        cost, loss = law(network, counting, seed), losses(network, options, seed)
        for share in shares:
            with peak_memory() as memory:
                started, worked = time.monotonic(), time.process_time()
                found = solve(useful(options, [cost]), loss, [Limit("latency", cost, share)], removals=network.removals)
                wall_s, cpu_s = time.monotonic() - started, time.process_time() - worked
            rows.append({
                "network": f"yolov8{size}", "channels": str(counting), "budget": share,
                "latency": found.costs["latency"], "loss": found.loss, "gap": found.gap,
                "wall_s": wall_s, "cpu_s": cpu_s, "before_mb": memory.before_mb, "peak_mb": memory.peak_mb,
                "met": None if size not in GOAL_S else wall_s <= GOAL_S[size] and (found.gap or 0.0) <= GOAL_GAP,
            })  # fmt: skip
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="nsmlx")
    parser.add_argument("--shares", type=float, nargs="*", default=[0.7, 0.5, 0.35])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(one(args.one, args.shares, args.seed)))
        return
    rows = []
    for size in args.sizes:
        command = [sys.executable, __file__, "--one", size, "--seed", str(args.seed), "--shares", *map(str, args.shares)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        rows += json.loads(done.stdout.splitlines()[-1])
        for row in rows[-len(LAWS) * len(args.shares) :]:
            print("{network}, channels: {channels}, budget {budget}: {wall_s:.1f} s "
                  "({cpu_s:.1f} s of work), gap {gap:.3%}, "
                  "{peak_mb:.0f} MB at most ({before_mb:.0f} MB before)".format(**row), flush=True)  # fmt: skip
    save("solver", {"rows": rows}, {"shares": args.shares, "seed": args.seed, "networks": "random weights, 320 px"})


if __name__ == "__main__":
    main()
