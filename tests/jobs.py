"""A whole tiny job on disk, and the command line around it, for tests of commands and of the pipeline."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.helpers import NAMES, live_model, tiny_dataset
from toolchain.yolo.checkpoint import save_checkpoint

REPOSITORY = Path(__file__).parents[1]
IMGSZ = 64
TOML = """\
model = "dense.pt"
data = "data/data.yaml"
imgsz = 64
out = "run"
[prune]
criterion = "l1"
[train]
epochs = 1
batch = 2
val_every = 1
close_mosaic = 0
[int8]
max_drop = 1.0
[bench]
threads = 1
rounds = 3
runs = 2
"""


def make_job(root: Path, toml: str = TOML) -> Path:
    """`dense.pt`, `data/` and `run.toml` in a folder; returns the run.toml."""
    save_checkpoint(root / "dense.pt", live_model(), names=NAMES, train_args={"imgsz": IMGSZ}, extra={})
    tiny_dataset(root / "data", {"train": 4, "val": 3}, size=(IMGSZ, IMGSZ))
    (root / "run.toml").write_text(toml)
    return root / "run.toml"


def command(*arguments: object) -> subprocess.Popen[str]:
    """`toolchain ARGUMENTS` as a process of its own, one thread, its output captured."""
    env = {**os.environ, "YOLO_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
    return subprocess.Popen(
        [sys.executable, "-m", "toolchain", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=env,
    )


def finished(root: Path) -> dict[str, int]:
    """Stage -> when its record was written, ns."""
    return {
        p.parent.name: p.stat().st_mtime_ns for p in (root / "stages").glob("*/stage.json") if ".partial" not in p.parent.name
    }
