"""What the benchmark scripts share: where results go and what machine made them."""

from __future__ import annotations

import datetime
import json
import platform
import re
from pathlib import Path
from typing import Any

from toolchain.device.probe import probe
from toolchain.stage import tool_versions

RESULTS = Path(__file__).parent / "results"


def save(name: str, figures: dict[str, Any], config: dict[str, Any]) -> Path:
    """Write `results/NAME-CPU-DATE.json`: the figures, how they were asked for, and on what."""
    machine = {key: value for key, value in probe().items() if key != "executable"}  # a path of whoever ran it
    cpu = re.sub(r"[^a-z0-9]+", "-", str(machine["cpu_model"] or platform.machine()).lower()).strip("-")
    today = datetime.date.today().isoformat()
    path = RESULTS / f"{name}-{cpu}-{today}.json"
    RESULTS.mkdir(exist_ok=True)
    record = {"name": name, "date": today, "config": config, "figures": figures, "machine": machine, "versions": tool_versions()}
    path.write_text(json.dumps(record, indent=1, default=str) + "\n")
    print(path)
    return path
