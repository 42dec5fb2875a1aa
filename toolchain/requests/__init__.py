"""From flags and run.toml sections to what the stages are asked: every check of a value a user typed is here."""

from toolchain.requests.engines import (
    as_built,
    bench_request,
    calibration,
    check_usable,
    energy_request,
    labelled,
    runtimes_of,
)
from toolchain.requests.networks import (
    check_budget,
    check_qat,
    check_training,
    layer_ratios,
    prune_request,
    qat_settings,
    ratios,
    request_of,
    select_section,
    sizes,
    train_section,
    train_settings,
)

__all__ = [
    "as_built",
    "bench_request",
    "calibration",
    "check_budget",
    "check_qat",
    "check_training",
    "check_usable",
    "energy_request",
    "labelled",
    "layer_ratios",
    "prune_request",
    "qat_settings",
    "ratios",
    "request_of",
    "runtimes_of",
    "select_section",
    "sizes",
    "train_section",
    "train_settings",
]
