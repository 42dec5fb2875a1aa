"""What the profiles of some whole engines say of single layers, each as a function of its own inputs and outputs.

Summed they are the usual way to predict latency, kept for comparison; what lies between layers (concats, copies, decoding) is
their mean then. A sum knows nothing of what layers do to each other, which `latency.fit` learns from whole engines: for that the
single layers are where it starts from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from toolchain.pruning.groups import Network
from toolchain.selection import cost as costs
from toolchain.selection.cost import Cost, Counting, Linear, Present
from toolchain.selection.shapes import engine_convs

Times = Mapping[str, float]  # layer -> ms of one engine
Sides = Mapping[str, tuple[Linear, Linear]]  # convolution -> what it reads and writes
NONE = Linear(0.0, {})


def learn_table(network: Network, plans: Sequence[Mapping[str, int]], profiles: Sequence[Times], counting: Counting) -> Cost:
    """Predicted milliseconds of a plan.

    Args:
        plans: those that were profiled.
        profiles: for each, convolution (module path) -> ms; every other key is between layers.
        counting: how channels count.
    """
    sides, engine = costs.sides(network, exact_reads=counting.exact_reads), engine_convs(network)
    left = costs.ragged(sides, counting.ragged)
    constant = float(np.mean([sum(ms for name, ms in one.items() if name not in sides) for one in profiles]))
    terms: list[tuple[float, Linear]] = []
    products: list[tuple[float, Linear, Linear]] = []
    for name, (a, b, c, d, e) in _layers(sides, left, plans, profiles, counting.block).items():
        reads, writes = sides[name]
        call = Linear(0.0, {Present(engine[name].block[0]): 1.0}) if engine[name].block else Linear(1.0, {})
        terms += [(a, reads), (b, writes), (d, call), (e, left.get(name, NONE))]
        products.append((c, reads, writes))
    return costs.total(counting.block, constant, terms, products)


def profile_prior(
    network: Network, plans: Sequence[Mapping[str, int]], profiles: Sequence[Times]
) -> dict[str, tuple[float, float, float]]:
    """Convolution -> shares of the dense engine's layer times: by its reads, by its writes, by both; for `latency.fit`.

    Args: as of `learn_table`.
    """
    whole = Cost().sizes({g.name: g.channels for g in network.free})
    sides = costs.sides(network)
    ms = {}
    for name, (a, b, c, _, _) in _layers(sides, {}, plans, profiles, 1).items():
        reads, writes = sides[name][0].at(whole), sides[name][1].at(whole)
        ms[name] = (a * reads, b * writes, c * reads * writes)
    total = sum(map(sum, ms.values()))
    return {name: (a / total, b / total, c / total) for name, (a, b, c) in ms.items()}


def _layers(
    sides: Sides, left: Mapping[str, Linear], plans: Sequence[Mapping[str, int]], profiles: Sequence[Times], block: int
) -> dict[str, tuple[float, ...]]:
    """Convolution -> what `_layer` says of it."""
    found, sizes_of = {}, [Cost(block).sizes(plan) for plan in plans]
    for name, (reads, writes) in sides.items():
        own = np.array([one.get(name, 0.0) for one in profiles])
        sizes = np.array([[reads.at(p), writes.at(p), left.get(name, NONE).at(p)] for p in sizes_of])
        there = sizes[:, :2].all(axis=1)  # not where its Bottleneck is gone
        found[name] = _layer(sizes[there], own[there])
    return found


def _layer(sizes: Any, times: Any) -> tuple[float, ...]:
    """Milliseconds per input, per output, per pair, of the call itself, and where outputs are left over; none negative."""
    from scipy.optimize import nnls

    columns = np.column_stack([sizes[:, 0], sizes[:, 1], sizes[:, 0] * sizes[:, 1], np.ones(len(sizes)), sizes[:, 2]])
    scale = np.maximum(columns.max(axis=0), 1e-12)
    found = nnls(columns / scale, times)[0] / scale
    return tuple(map(float, found))
