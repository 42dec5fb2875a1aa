"""A trained YOLO goes in with a device and a budget; a measured engine that meets it comes out.

The verbs of the command line as functions: `toolchain.prune(...)`, `toolchain.run(...)`. They are loaded when first used, so that
importing the package stays quick. `export` is a room of the package, so its verb is `toolchain.verbs.export`.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"
_HOME = {
    "verbs": (
        "PruneRequest", "bench", "build", "evaluate", "explain", "finetune", "profile", "prune", "quantize", "sensitivity",
        "typed", "verify",
    ),
    "pipeline": ("run",),
    "config": ("load_config",),
    "report.compare": ("compare_runs",),
    "report.html": ("write_report",),
}  # fmt: skip
_VERBS = {verb: module for module, verbs in _HOME.items() for verb in verbs}
__all__ = ["__version__", *sorted(_VERBS)]


def __getattr__(name: str) -> Any:
    if name not in _VERBS:
        raise AttributeError(f"module 'toolchain' has no attribute {name!r}")
    return getattr(importlib.import_module(f"toolchain.{_VERBS[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
