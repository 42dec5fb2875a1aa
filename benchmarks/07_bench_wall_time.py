"""Wall time of `bench` on one and on several devices of the lab, and the time from the command to the first sample.

    python benchmarks/07_bench_wall_time.py engine.onnx --devices 8 --delay-ms 50

The devices are those of tests/lab (root needed): file systems, processes and networks of their own on this machine's kernel, each
behind a wire of the delay asked for. They share this machine's processors, so latencies of several at once mean nothing; passes
have a length in seconds, so the wall time does.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from common import save

from tests.lab.box import Making
from tests.lab.network import Network, boxes
from toolchain import verbs
from toolchain.device.conditions import Conditions
from toolchain.device.pace import pace_of
from toolchain.device.settings import On
from toolchain.stage import read_json


def wall_s(engines: dict[str, Path], hosts: list[str], out: Path, pass_s: float, rounds: int) -> float:
    """Seconds of one call of bench on all hosts."""
    pace = pace_of("search", rounds=rounds, pass_s=pass_s, settle_cap_s=0.0)
    started = time.monotonic()
    on = On(threads=1, python=sys.executable)
    _, error = verbs.bench_fleet(engines, out, hosts, on=on, pace=pace, conditions=Conditions(keep_unstable=True))
    if error is not None:
        raise error
    return time.monotonic() - started


def first_sample_s(engine: Path, out: Path) -> dict[str, float]:
    """From the start of the command to the start of the first sample, s, and what of it was the warm-up asked for."""
    words = ["bench", f"one={engine}", "--host", "dev1", "--profile", "quick", "--rounds", "1", "--runs", "5", "--threads", "1"]
    words += ["--keep-unstable", "--out", str(out), "--python", sys.executable, "--json"]
    started = time.monotonic()
    subprocess.run([sys.executable, "-m", "toolchain", *words], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    samples = json.loads((out / "samples" / "one.json").read_text())["rounds"][0]
    loaded = read_json(out / "sessions.json")[0]["loaded"].values()  # one clock: the devices share this machine's kernel
    return {"first_sample_s": samples["start_s"][0] - started, "of_it_warm_up_s": sum(one["warmup"]["seconds"] for one in loaded)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("engine", type=Path)
    parser.add_argument("--devices", type=int, default=8)
    parser.add_argument("--delay-ms", type=float, default=50.0, help="of a round trip")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--pass-s", type=float, default=1.0)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--dry", action="store_true", help="write no file")
    args = parser.parse_args()
    engines, figures = {"one": args.engine.resolve()}, {}
    names = [f"edge-wall-{number}" for number in range(args.devices)]
    with tempfile.TemporaryDirectory(prefix="edge-wall-") as place:
        folder = Path(place)
        with Network(folder / "net", args.devices, boxes(replace(Making(), name=names[0]))) as network, network.entered():
            os.environ["EDGE_SSH_CONFIG"] = str(network.config)
            os.environ["EDGE_DEVICE_CACHE"] = "~/.cache/edge-toolchain"
            for device in network.devices:
                device.delay(args.delay_ms)
            hosts = [f"dev{number}" for number in range(1, args.devices + 1)]
            times: dict[str, Any] = {"agent not there": first_sample_s(engines["one"], folder / "cold")}
            times["agent there"] = first_sample_s(engines["one"], folder / "warm")
            one, many = [], []
            for number in range(args.repeats):
                one.append(wall_s(engines, hosts[:1], folder / f"one-{number}", args.pass_s, args.rounds))
                many.append(wall_s(engines, hosts, folder / f"many-{number}", args.pass_s, args.rounds))
                print(f"1 device: {one[-1]:.1f} s, {len(hosts)} devices: {many[-1]:.1f} s")
    figures = {"command_to_first_sample": times, "wall_s_1": one, f"wall_s_{len(hosts)}": many,
               "ratio": [b / a for a, b in zip(one, many, strict=True)]}  # fmt: skip
    print(json.dumps(figures, indent=1))
    if not args.dry:
        save("bench-wall-time", figures, {key: str(value) for key, value in vars(args).items() if key not in ("engine", "dry")})


if __name__ == "__main__":
    main()
