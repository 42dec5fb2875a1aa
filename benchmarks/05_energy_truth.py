"""How far is measured energy from the truth? Random loads of known energy, through a sensor that averages, holds and rounds.

    python benchmarks/05_energy_truth.py --boards 20 --out runs/energy-truth

Live: boards that the power plant of tests/lab plays in real time, measured the whole way, all at once. Simulated: the same sensor
and arithmetic without processes and clocks, over many more loads, and what taking off the lag is worth. Windows lie inside
the load: nothing hides what the power does at their ends.
"""

from __future__ import annotations

import argparse
import random
import sys
from pathlib import Path
from typing import Any

import numpy as np
from common import save

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests import tinynet
from tests.device.plant_runs import Error, errors_of, random_board
from tests.lab.plant import Board
from toolchain.device.energy_request import Phases
from toolchain.measurement import energy
from toolchain.measurement.energy_window import Sensor, window_of

LIMIT = 0.01


def simulated(seed: int, u: float, window_s: float, *, lag: bool) -> tuple[float, float, bool]:
    """Error of the total and the marginal energy of one load, and whether the total's uncertainty covers it."""
    rng = random.Random(f"sim{seed}")
    idle_s, lead_in_s = 30.0, 5.0
    load = (idle_s, idle_s + lead_in_s + window_s + 1.0)
    board: Board = random_board(Path("/nowhere"), seed, u)
    board = Board(**{**board.__dict__, "switched": (load,)})
    times = [t + rng.uniform(0.0, 0.002) for t in np.arange(0.0, load[1] + idle_s, u / 2 * rng.uniform(0.99, 1.01))]
    watts = [board.sensor.watts(board, t) for t in times]
    trace = energy.total(times, {"in": watts}, {"in": "total"}, lag_s=u if lag else 0.0)
    window = (load[0] + lead_in_s, load[0] + lead_in_s + window_s)
    ends = np.arange(load[0], load[1], 0.01)
    found = window_of(trace, Sensor(u, u / 2, board.sensor.step_w), idle=((0.0, idle_s), (load[1], load[1] + idle_s)),
                      window=window, ends_s=ends)  # fmt: skip
    a, b = found.start_s, found.end_s
    true_j, marginal_j = board.between(a, b), board.marginal(b) - board.marginal(a)
    assert found.energy_j is not None
    assert found.energy_marginal_mj is not None
    assert found.uncertainty_total_mj is not None
    error = found.energy_j - true_j
    covered = abs(error) <= found.uncertainty_total_mj * found.n / 1000
    return error / true_j, found.energy_marginal_mj * found.n / 1000 / marginal_j - 1, covered


def spread(errors: list[float]) -> dict[str, float]:
    """Of relative errors."""
    sizes = np.abs(errors)
    return {"max": float(sizes.max()), "p95": float(np.quantile(sizes, 0.95)), "median": float(np.median(sizes)),
            "mean_signed": float(np.mean(errors)), "above_1_percent": int((sizes > LIMIT).sum()), "n": len(errors)}  # fmt: skip


def show(errors: list[Error]) -> None:
    """The table of the live boards."""
    print("load   total  marginal  uncertainty  values  largest gap  notes")
    for error in errors:
        window = error.window
        notes = "; ".join(error.reasons) or "valid"
        print(f"{error.seed:4} {error.total:+7.3%} {error.marginal:+8.3%} {error.uncertainty:11.3%} {window['values']:7} "
              f"{window['largest_gap_s']:10.3f} s  {notes}")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--boards", type=int, default=20)
    parser.add_argument("--refresh", type=float, default=0.43, help="the sensor's, s; 0.43 on Xavier and Orin")
    parser.add_argument("--window", type=float, default=60.0)
    parser.add_argument("--idle", type=float, default=30.0)
    parser.add_argument("--simulated", type=int, default=1000, help="loads without processes and clocks")
    parser.add_argument("--out", type=Path, default=Path("runs/energy-truth"))
    args = parser.parse_args()
    args.out.mkdir(parents=True)
    figures: dict[str, Any] = {"simulated": {}}
    for name, lag in (("lag taken off", True), ("lag left in", False)):
        each = [simulated(seed, args.refresh, args.window, lag=lag) for seed in range(args.simulated)]
        figures["simulated"][name] = {
            "total": spread([total for total, _, _ in each]), "marginal": spread([marginal for _, marginal, _ in each]),
            "covered_by_uncertainty": sum(covered for *_, covered in each) / len(each),
        }  # fmt: skip
        print(name, figures["simulated"][name])
    if args.boards:
        phases = Phases(args.idle, 5.0, args.window, 100, run_on_s=1.0)
        engine = tinynet.save_detector(args.out / "engine.onnx")
        live = errors_of(args.out.resolve(), engine, range(args.boards), args.refresh, phases, workers=args.boards)
        show(live)
        figures["live"] = {
            "total": spread([error.total for error in live]), "marginal": spread([error.marginal for error in live]),
            "covered_by_uncertainty": sum(error.covered for error in live) / len(live),
            "valid": sum(not error.reasons for error in live),
            "loads": [{"seed": one.seed, "total": one.total, "marginal": one.marginal, "reasons": one.reasons} for one in live],
        }  # fmt: skip
        print("live", figures["live"]["total"])
    save("energy-truth", figures, {key: value for key, value in vars(args).items() if key != "out"})


if __name__ == "__main__":
    main()
