"""Things the lab builds once and keeps: ~/.cache/edge-toolchain-lab, or $EDGE_LAB_CACHE."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest


def cached(name: str, *parts: str | Path, build: Callable[[Path], None]) -> Path:
    """A folder by the content of what it is made from; built where it does not exist, whole or not at all.

    Args:
        parts: everything that decides the result: words, and files whose content counts.
        build: fills an empty folder.
    """
    key = hashlib.sha256()
    for part in parts:
        key.update((part.read_bytes() if isinstance(part, Path) else part.encode()) + b"\0")
    root = Path(os.environ.get("EDGE_LAB_CACHE") or "~/.cache/edge-toolchain-lab").expanduser()
    root.mkdir(parents=True, exist_ok=True)
    folder = root / f"{name}-{key.hexdigest()[:16]}"
    with (root / f".{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another test run builds it meanwhile
        if not folder.exists():
            partial = root / f".{name}.partial"
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
            build(partial)
            partial.rename(folder)
            _forget(root, name)
        os.utime(folder)
    return folder


def _forget(root: Path, name: str) -> None:
    """Take away what was built before and has not been used for a week."""
    for old in root.glob(f"{name}-*"):
        if old.stat().st_mtime < time.time() - 7 * 86400:
            shutil.rmtree(old)


def step(*command: str | Path) -> None:
    """Run a step of a build, which ends with the test runner and mounts nothing outside; its output is shown where it fails."""
    words = ["setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "--propagation", "private", *map(str, command)]
    done = subprocess.run(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        pytest.fail(f"building the lab failed: {' '.join(map(str, command))}\n{done.stdout[-4000:]}")
