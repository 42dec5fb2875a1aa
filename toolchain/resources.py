"""The shipped data folders (`targets/`, `calibration/`): inside the package once installed, beside it in a checkout."""

from __future__ import annotations

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
