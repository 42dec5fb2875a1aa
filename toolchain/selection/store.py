"""Where a device's timings are kept, so that the next selection on it starts from what is known."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from toolchain.device.settings import On
from toolchain.pruning.groups import Network
from toolchain.resources import cache_dir
from toolchain.selection.shapes import engine_convs
from toolchain.stage import write_json

VERSION = 4  # of how engines are resized and timed
DEVICE = ("arch", "cpu_model", "cpu_flags", "cores", "board")


def folder_of(network: Network, imgsz: int, precision: str, probe: Mapping[str, Any], on: On) -> Path:
    """A folder for each device, runtime, precision, network shape and picture size; `about.json` says which.

    Weights do not matter: two trainings of one architecture share their timings. $EDGE_CACHE moves the store.
    """
    shapes = [
        [name, c.inputs, c.outputs, c.macs_per_pair, dict(c.reads), dict(c.writes)] for name, c in engine_convs(network).items()
    ]
    runtime = probe["runtimes"].get(on.runtime) or {}
    about = {
        "version": VERSION, "device": {key: probe[key] for key in DEVICE}, "runtime": [on.runtime, runtime.get("version")],
        "provider": on.provider, "threads": on.threads, "precision": precision, "imgsz": imgsz,
        "network": hashlib.sha256(json.dumps(shapes).encode()).hexdigest(),
    }  # fmt: skip
    key = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:12]
    name = re.sub(r"[^a-z0-9]+", "-", str(probe["board"] or probe["cpu_model"] or probe["arch"]).lower()).strip("-")[:40]
    folder = cache_dir("latency") / f"{name}-{precision}-{imgsz}-{key}"
    folder.mkdir(exist_ok=True)
    write_json(folder / "about.json", about)
    return folder
