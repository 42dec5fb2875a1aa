"""The verbs: one function a command, from files to files. The command line and the pipeline both call these."""

from toolchain.pruning.prune import PruneRequest, explain, prune
from toolchain.pruning.sensitivity import sensitivity
from toolchain.verbs.accuracy import evaluate, quantize
from toolchain.verbs.devices import deploy, deployed, describe_model, examine, rollback
from toolchain.verbs.engines import bench, build, profile
from toolchain.verbs.fleets import FLEET, attach_results, bench_fleet, bundles_of
from toolchain.verbs.networks import export, finetune, sensitivity_page
from toolchain.verbs.selecting import select

__all__ = [
    "FLEET",
    "PruneRequest",
    "attach_results",
    "bench",
    "bench_fleet",
    "build",
    "bundles_of",
    "deploy",
    "deployed",
    "describe_model",
    "evaluate",
    "examine",
    "explain",
    "export",
    "finetune",
    "profile",
    "prune",
    "quantize",
    "rollback",
    "select",
    "sensitivity",
    "sensitivity_page",
]
