"""Dependency groups: which channels of which layers must go together (DepGraph, arXiv 2301.12900).

The only file that touches torch-pruning, and only its graph: scores, choices and the cut are ours. A group is described by
positions, so that a cut is plain indexing and a plan replays without the graph library's state.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from toolchain.errors import PruningError, UnknownNameError
from toolchain.pruning.depth import Removal, removable
from toolchain.yolo.blocks import SplitC2f, head_outputs, not_prunable

Positions = NDArray[np.int64]
Widths = dict[str, int]  # group -> channels it keeps


@dataclass(frozen=True)
class Slice:
    """One dimension of one layer that a group cuts.

    Attributes:
        layer: module path in the prunable network.
        dim: "out" (outputs of a conv, channels of a BN) or "in" (inputs of a conv).
        positions: (channels, k); row c are the positions that go when channel c goes.
    """

    layer: str
    dim: str
    positions: Positions


@dataclass(frozen=True)
class Group:
    """Channels that are kept or removed together.

    Attributes:
        name: the layer that makes the channels, by its stock name.
        channels: how many there are (for a C2f: in each half).
        parts: sets of slices whose channel indices may differ but whose counts may not; two for the halves of a C2f.
        frozen: why the group keeps all its channels, or None.
        depth: index of its top-level module in the network.
    """

    name: str
    channels: int
    parts: tuple[tuple[Slice, ...], ...]
    frozen: str | None
    depth: int

    def layers(self, dim: str | None = None) -> list[str]:
        """Layers the group touches, in order, without repeats."""
        names = [s.layer for part in self.parts for s in part if dim in (None, s.dim)]
        return list(dict.fromkeys(names))


@dataclass(frozen=True)
class ConvShape:
    """A convolution at full width: channels, multiply-adds per (in, out) channel pair, and grouping.

    `depthwise` is any grouped convolution: its pairs are its outputs, each with the inputs of its own group.
    """

    inputs: int
    outputs: int
    macs_per_pair: int
    params_per_pair: int
    depthwise: bool


@dataclass(frozen=True)
class Network:
    """The prunable network's groups and the arithmetic of its widths."""

    groups: tuple[Group, ...]
    convs: Mapping[str, ConvShape]
    removed_in: Mapping[str, Mapping[str, int]] = field(repr=False)  # conv -> group -> input positions per channel
    removed_out: Mapping[str, Mapping[str, int]] = field(repr=False)
    removals: tuple[Removal, ...] = field(default=(), repr=False)

    def group(self, name: str) -> Group:
        """Raises: UnknownNameError."""
        for group in self.groups:
            if group.name == name:
                return group
        raise UnknownNameError("layer group", name, [g.name for g in self.groups])

    @property
    def free(self) -> list[Group]:
        """Groups that may be cut."""
        return [group for group in self.groups if group.frozen is None]

    def conv_widths(self, widths: Mapping[str, int]) -> dict[str, tuple[int, int]]:
        """(inputs, outputs) of every conv when groups keep `widths` channels (missing: all).

        The convs of a Bottleneck that is gone have no inputs or no outputs.
        """
        kept = {group.name: widths.get(group.name, group.channels) for group in self.groups}
        lost = {group.name: group.channels - kept[group.name] for group in self.groups}
        skipped: dict[str, int] = {}
        for removal in self.removals:
            if removal.reader and not kept[removal.hidden]:
                skipped[removal.reader] = skipped.get(removal.reader, 0) + kept[removal.source]
        return {
            name: (
                conv.inputs - sum(lost[g] * k for g, k in self.removed_in.get(name, {}).items()) - skipped.get(name, 0),
                conv.outputs - sum(lost[g] * k for g, k in self.removed_out.get(name, {}).items()),
            )
            for name, conv in self.convs.items()
        }

    def macs(self, widths: Mapping[str, int]) -> int:
        """Multiply-accumulates of all convolutions for one picture."""
        return sum(self._pairs(n, *w) * self.convs[n].macs_per_pair for n, w in self.conv_widths(widths).items())

    def params(self, widths: Mapping[str, int]) -> int:
        """Weights of all convolutions."""
        return sum(self._pairs(n, *w) * self.convs[n].params_per_pair for n, w in self.conv_widths(widths).items())

    def _pairs(self, name: str, inputs: int, outputs: int) -> int:
        return outputs if self.convs[name].depthwise else inputs * outputs


def trace(network: nn.Module, imgsz: int) -> Network:
    """Groups of a prunable network (C2f already split).

    Args:
        network: an ultralytics DetectionModel after `to_prunable`, float32.
        imgsz: picture side, pixels; only the multiply-add counts depend on it.

    Raises:
        PruningError: the graph cannot be built for this network.
    """
    import torch_pruning as tp

    if odd := not_prunable(network):
        raise PruningError(
            "the network has blocks that cannot be pruned", got=", ".join(f"{kind} ×{count}" for kind, count in odd.items()),
            fix="YOLOv8, YOLOv5u and YOLOv3 detection networks can be",
        )  # fmt: skip
    network.eval()
    for parameter in network.parameters():
        parameter.requires_grad_(True)  # DepGraph follows autograd
    images = torch.zeros(1, 3, imgsz, imgsz)
    frozen = _frozen_layers(network)
    try:
        graph = tp.DependencyGraph().build_dependency(
            network, images, output_transform=lambda out: [out[1]["boxes"], out[1]["scores"]], verbose=False
        )
        found = list(graph.get_all_groups(ignored_layers=[], root_module_types=[nn.Conv2d]))
    except Exception as error:
        raise PruningError("the dependency graph cannot be built", got=f"{type(error).__name__}: {error}") from error
    paths = {module: name for name, module in network.named_modules()}
    parts = [_part(group, paths, graph) for group in found]
    groups = _tie_halves([_as_group(part, frozen, network) for part in parts if part], network)
    convs = _conv_shapes(network, images)
    return Network(
        tuple(groups), convs, _count(groups, convs, "in"), _count(groups, convs, "out"), removable(network, groups)
    )  # fmt: skip


def _frozen_layers(network: Any) -> dict[str, str]:
    """Layers whose outputs are the detector's outputs: the last 1×1 convs of Detect and the DFL; and grouped convolutions."""
    frozen = {}
    for name, module in network.named_modules():
        if name.endswith(".dfl.conv"):
            frozen[name] = "DFL: fixed weights 0..reg_max-1"
        elif (
            isinstance(module, nn.Conv2d) and module.groups > 1 and not module.in_channels == module.groups == module.out_channels
        ):
            frozen[name] = f"grouped convolution ({module.groups} groups of {module.in_channels} inputs)"
    head = type(network.model[-1]).__name__
    base = f"model.{len(network.model) - 1}"
    for branch, meaning in (("cv2", "box distribution"), ("cv3", "class scores")):
        for level in range(len(getattr(network.model[-1], branch))):
            frozen[f"{base}.{branch}.{level}.2"] = f"last 1×1 conv of {head}: its outputs are the {meaning}"
    return frozen


def _part(group: Any, paths: Mapping[nn.Module, str], graph: Any) -> tuple[Slice, ...]:
    """Slices of one torch-pruning group; channel order is that of its root."""
    merged: dict[tuple[str, str], dict[int, list[int]]] = {}
    for item in group.items:
        module, prune = item.dep.target.module, item.dep.handler
        if module not in paths or not isinstance(module, (nn.Conv2d, nn.BatchNorm2d)):
            continue
        depthwise = isinstance(module, nn.Conv2d) and module.groups > 1
        is_in = isinstance(module, nn.Conv2d) and not depthwise and graph.is_in_channel_pruning_fn(prune)
        rows = merged.setdefault((paths[module], "in" if is_in else "out"), {})
        for position, channel in zip(item.idxs, item.root_idxs, strict=True):
            at = rows.setdefault(int(channel), [])
            if int(position) not in at:
                at.append(int(position))
    return tuple(
        Slice(layer, dim, np.asarray([rows[c] for c in sorted(rows)], dtype=np.int64)) for (layer, dim), rows in merged.items()
    )


def _as_group(part: tuple[Slice, ...], frozen: Mapping[str, str], network: nn.Module) -> Group:
    root = next(s.layer for s in part if s.dim == "out")
    reasons = [frozen[s.layer] for s in part if s.dim == "out" and s.layer in frozen]
    name = root.removesuffix(".conv") if hasattr(network.get_submodule(root.rsplit(".", 1)[0]), "bn") else root
    return Group(name, len(part[0].positions), (part,), reasons[0] if reasons else None, int(root.split(".")[1]))


def _tie_halves(groups: list[Group], network: nn.Module) -> list[Group]:
    """Join the two halves of every C2f: same count, own indices, named after the stock `cv1`."""
    owner = {layer: group for group in groups for layer in group.layers("out")}
    tied: dict[int, Group] = {}
    for path, module in network.named_modules():
        if isinstance(module, SplitC2f):
            first, second = owner[f"{path}.cv0.conv"], owner[f"{path}.cv1.conv"]
            if first.channels != second.channels:
                raise PruningError("the halves of a C2f depend on different numbers of channels", got=path)
            joined = Group(f"{path}.cv1", first.channels, first.parts + second.parts, first.frozen or second.frozen, first.depth)
            tied[id(first)] = joined
            tied[id(second)] = joined
    return _unique(tied, groups)


def _unique(tied: Mapping[int, Group], groups: Iterable[Group]) -> list[Group]:
    seen: dict[str, Group] = {}
    for group in groups:
        final = tied.get(id(group), group)
        seen.setdefault(final.name, final)
    return sorted(seen.values(), key=lambda g: (g.depth, g.name))


def _conv_shapes(network: nn.Module, images: torch.Tensor) -> dict[str, ConvShape]:
    shapes: dict[str, ConvShape] = {}
    hooks = []
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d):

            def record(conv: nn.Module, _: object, out: torch.Tensor, name: str = name) -> None:
                assert isinstance(conv, nn.Conv2d)
                area = conv.kernel_size[0] * conv.kernel_size[1] * (conv.in_channels // conv.groups if conv.groups > 1 else 1)
                shapes[name] = ConvShape(
                    conv.in_channels, conv.out_channels, area * out.shape[-2] * out.shape[-1], area, conv.groups > 1
                )

            hooks.append(module.register_forward_hook(record))
    try:
        with torch.no_grad():
            head_outputs(network, images)
    finally:
        for hook in hooks:
            hook.remove()
    return {name: shape for name, shape in shapes.items() if ".dfl." not in name}


def _count(groups: Iterable[Group], convs: Mapping[str, ConvShape], dim: str) -> dict[str, dict[str, int]]:
    """conv -> group -> positions that one channel of the group takes in that dimension."""
    table: dict[str, dict[str, int]] = {}
    for group in groups:
        for part in group.parts:
            for piece in part:
                if piece.dim == dim and piece.layer in convs:
                    row = table.setdefault(piece.layer, {})
                    row[group.name] = row.get(group.name, 0) + piece.positions.shape[1]
    return table
