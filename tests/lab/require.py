"""Whether this machine can run a tier of the lab: if not, its tests are skipped, or fail where the tier is required."""

from __future__ import annotations

import os
import platform
import shutil
from pathlib import Path
from typing import NoReturn

import pytest


def required(tier: str) -> bool:
    """Whether $EDGE_LAB_REQUIRED lists the tier."""
    return tier in os.environ.get("EDGE_LAB_REQUIRED", "").replace(" ", "").split(",")


def cannot(tier: str, reason: str) -> NoReturn:
    """Skip the test; fail it instead where the tier is required."""
    if required(tier):
        pytest.fail(f"EDGE_LAB_REQUIRED asks for tier {tier}, but {reason}")
    pytest.skip(f"tier {tier} of the lab cannot run here: {reason}")


def needs_linux(tier: str) -> None:
    if platform.system() != "Linux":
        cannot(tier, "it needs Linux")


def needs_root(tier: str) -> None:
    if os.geteuid() != 0:
        cannot(tier, "it needs root")


def needs_programs(tier: str, **packages: str) -> None:
    """`needs_programs("B", ip="iproute2")`: a program and the Debian package it comes from; `_` in a name stands for `-`."""
    names = {program.replace("_", "-"): package for program, package in packages.items()}
    missing = {program: package for program, package in names.items() if find(program) is None}
    if missing:
        install = " ".join(sorted(set(missing.values())))
        cannot(tier, f"these programs are missing: {', '.join(missing)} (apt-get install {install})")


def find(program: str) -> Path | None:
    """Path of a program, also of one for administrators."""
    found = shutil.which(program, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    return Path(found) if found else None
