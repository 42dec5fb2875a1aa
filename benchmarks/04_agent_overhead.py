"""What the agent's way of timing costs: its median latency against a bare ONNX Runtime loop on the same session, in turns.

    python benchmarks/04_agent_overhead.py engine.onnx [engine.onnx ...] --threads 2

Both loops run in this process; rounds alternate in order, and the ratio comes with its interval. Run it on a quiet machine.
"""

from __future__ import annotations

import argparse
import gc
import time
from pathlib import Path
from typing import Any

import numpy as np
from common import save

from toolchain.agent import engines, timing
from toolchain.agent.runtimes import rt_onnxruntime
from toolchain.measurement.stats import ratio_of_rounds, to_json


class Job:
    """What the agent's operations are given."""

    root = "/"

    def __init__(self, memory: dict[str, Any], **request: Any) -> None:
        self.memory, self.request = memory, request

    def need(self, name: str, kind: Any) -> Any:
        return self.request[name]


def by_agent(memory: dict[str, Any], runs: int) -> list[float]:
    """Latencies as the agent takes them, ms."""
    return timing.go(Job(memory, runs=runs, lead_runs=3))["latency_ms"]


def by_hand(session: Any, name: str, array: np.ndarray, runs: int) -> list[float]:
    """Latencies of the plainest loop there is, ms."""
    for _ in range(3):
        session.run(None, {name: array})
    gc.collect()
    gc.disable()
    found = []
    for _ in range(runs):
        start = time.perf_counter()
        session.run(None, {name: array})
        found.append(1000 * (time.perf_counter() - start))
    gc.enable()
    return found


def measure(path: Path, threads: int, rounds: int, runs: int, warmup_s: float, imgsz: int | None) -> dict[str, Any]:
    """Ratio of the agent's median to the bare loop's, one engine."""
    engine = rt_onnxruntime.load(str(path), "CPUExecutionProvider", threads)
    array = engines.random_input(engine, imgsz)
    session, name = engine._session, engine.inputs[0]["name"]
    memory = {"engine": engine, "array": array}
    timing.warm_up(lambda: engine.run(array), 50, warmup_s, 0)
    agent, bare = [], []
    for number in range(rounds):
        ways = [lambda: agent.append(by_agent(memory, runs)), lambda: bare.append(by_hand(session, name, array, runs))]
        for way in ways if number % 2 else ways[::-1]:
            way()
    ratio = ratio_of_rounds(agent, bare)
    medians = {"agent_p50_ms": float(np.median(agent)), "bare_p50_ms": float(np.median(bare))}
    return {**medians, "ratio": to_json(ratio), "overhead": ratio.value - 1}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("engines", type=Path, nargs="+", metavar="ENGINE.onnx")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--runs", type=int, default=50)
    parser.add_argument("--warmup-s", type=float, default=5.0)
    parser.add_argument("--imgsz", type=int)
    parser.add_argument("--dry", action="store_true", help="write no file")
    args = parser.parse_args()
    figures = {}
    for path in args.engines:
        found = measure(path, args.threads, args.rounds, args.runs, args.warmup_s, args.imgsz)
        figures[path.stem] = found
        ratio = found["ratio"]
        print(f"{path.stem:20s} agent {found['agent_p50_ms']:.4f} ms, bare loop {found['bare_p50_ms']:.4f} ms, "
              f"ratio {ratio['value']:.4f} ({ratio['low']:.4f} to {ratio['high']:.4f})")  # fmt: skip
    if not args.dry:
        save("agent-overhead", figures, {key: str(value) for key, value in vars(args).items() if key not in ("engines", "dry")})


if __name__ == "__main__":
    main()
