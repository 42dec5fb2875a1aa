"""A bundle's own engine, where the runtime builds it on the device: built there, fetched, and described for other devices.

A device like this one takes the plan as it is; any other builds its own of the bundle's graph when the bundle is installed there.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from toolchain.device import plan
from toolchain.device.conversion import convert, order_of
from toolchain.device.manifest import SOURCE
from toolchain.device.plan_loader import LOADER, plan_loader
from toolchain.device.session import AgentSession
from toolchain.stage import read_json, write_bytes

PLAN, ABOUT, CALIBRATION = "engine.plan", "engine.json", "calibration.cache"
BUILT = "built-here"  # see toolchain/agent/ready.py
ENCODING = "latin-1"  # see toolchain/agent/trt/travel.py


@dataclass(frozen=True)
class OwnEngine:
    """An engine that the device has built of a bundle's graph.

    Attributes:
        remote: its path there.
        engine: the bundle's file that is its engine: the plan, or the graph where the plan stays on the device.
        files: what was added to the bundle's folder.
        there: what a trial of the bundle takes from the device itself: name -> path there.
        conversion: for the manifest.
    """

    remote: str
    engine: str
    files: list[str]
    there: dict[str, str]
    conversion: dict[str, Any]


def build_there(
    session: AgentSession, folder: Path, fields: Mapping[str, Any], calibration: Path | None, *, keep_plan: bool
) -> OwnEngine:
    """Have the graph in `folder` built, and put beside it what a bundle needs to run the plan.

    Args:
        fields, calibration: as of conversion.place.
        keep_plan: fetch the plan; else only what other devices need to build theirs.

    Raises:
        the errors of conversion.place.
    """
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        order = order_of(session, folder / SOURCE, fields, Path(scratch), calibration)
        if order.graph != folder / SOURCE:  # types were written into it: this is what other devices build of
            shutil.move(order.graph, folder / SOURCE)
    made = convert(session, order.of(folder / SOURCE))
    plan.fetch(session, made.path, order.runtime, folder / PLAN, sha256=made.plan_sha256, whole=keep_plan)
    about = read_json(folder / ABOUT)
    files = [LOADER]
    write_bytes(folder / LOADER, plan_loader())
    if about.get("calibration_cache"):
        write_bytes(folder / CALIBRATION, about["calibration_cache"].encode(ENCODING))
        files.append(CALIBRATION)
    if keep_plan:
        files += [PLAN, ABOUT]
    else:
        (folder / ABOUT).unlink()
    name = PurePosixPath(PLAN).stem if keep_plan else BUILT
    conversion = {
        "provider": order.provider, "order": order.more, "calibration": CALIBRATION if CALIBRATION in files else None,
        "engine": PLAN if keep_plan else None, "about": ABOUT if keep_plan else None,
    }  # fmt: skip
    there = {f"{name}.plan": made.path, f"{name}.json": str(PurePosixPath(made.path).with_suffix(".json"))}
    return OwnEngine(made.path, PLAN if keep_plan else SOURCE, files, there, conversion)
