"""The verbs: one function a command, from files to files. The command line and the pipeline both call these.

They are loaded when first used: what only talks to a device does not wait for torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from toolchain.pruning.prune import PruneRequest, explain, prune
    from toolchain.pruning.sensitivity import sensitivity
    from toolchain.verbs.accuracy import evaluate
    from toolchain.verbs.devices import deploy, deployed, describe_model, examine, rollback, selftest
    from toolchain.verbs.engines import bench, build, profile
    from toolchain.verbs.fleets import FLEET, attach_results, bench_fleet, bundles_of
    from toolchain.verbs.graphs import check_accepted, typed, verify
    from toolchain.verbs.networks import export, finetune, finetune_all, sensitivity_page
    from toolchain.verbs.quantizing import quantize
    from toolchain.verbs.selecting import select

_HOME = {
    "pruning.prune": ("PruneRequest", "explain", "prune"),
    "pruning.sensitivity": ("sensitivity",),
    "verbs.accuracy": ("evaluate",),
    "verbs.devices": ("deploy", "deployed", "describe_model", "examine", "rollback", "selftest"),
    "verbs.engines": ("bench", "build", "profile"),
    "verbs.fleets": ("FLEET", "attach_results", "bench_fleet", "bundles_of"),
    "verbs.graphs": ("check_accepted", "typed", "verify"),
    "verbs.networks": ("export", "finetune", "finetune_all", "sensitivity_page"),
    "verbs.quantizing": ("quantize",),
    "verbs.selecting": ("select",),
}
_MODULES = {verb: module for module, verbs in _HOME.items() for verb in verbs}

__all__ = [
    "FLEET",
    "PruneRequest",
    "attach_results",
    "bench",
    "bench_fleet",
    "build",
    "bundles_of",
    "check_accepted",
    "deploy",
    "deployed",
    "describe_model",
    "evaluate",
    "examine",
    "explain",
    "export",
    "finetune",
    "finetune_all",
    "profile",
    "prune",
    "quantize",
    "rollback",
    "select",
    "selftest",
    "sensitivity",
    "sensitivity_page",
    "typed",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'toolchain.verbs' has no attribute {name!r}")
    return getattr(importlib.import_module(f"toolchain.{_MODULES[name]}"), name)
