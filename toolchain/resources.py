"""Folders: shipped data (`targets/`, `calibration/`), inside the package once installed, beside it in a checkout; the cache."""

from __future__ import annotations

import os
from pathlib import Path

from toolchain.errors import ToolchainError


def data_dir(name: str) -> Path:
    """Folder of shipped TOML files.

    Raises:
        ToolchainError: the folder is nowhere, so the installation is broken.
    """
    here = Path(__file__).resolve().parent
    for folder in (here / name, here.parent / name):
        if any(folder.glob("*.toml")):
            return folder
    raise ToolchainError(f"no {name}/*.toml inside or beside {here}", fix="reinstall edge-toolchain or use a full checkout")


def cache_dir(name: str) -> Path:
    """Folder of what can be made again, made if it is missing. $EDGE_CACHE moves it."""
    root = Path(os.environ.get("EDGE_CACHE") or Path.home() / ".cache" / "edge-toolchain-host")
    (root / name).mkdir(parents=True, exist_ok=True)
    return root / name
