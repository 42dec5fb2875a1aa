"""The verbs: one function a command, from files to files. The command line and the pipeline both call these."""

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
