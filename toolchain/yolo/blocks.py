"""Blocks that DepGraph cannot cut as they are, rewritten for pruning and merged back into the stock module.

A C2f splits the output of `cv1` with `chunk`, which ties channel i to channel i + c. As two convs, `cv0` and `cv1`, the halves
can be cut channel by channel; while both keep the same number of channels they merge back into a stock C2f, so the checkpoint
loads wherever ultralytics is installed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from copy import deepcopy
from typing import Any

import torch
from torch import nn
from ultralytics.nn.modules import C2f

from toolchain.errors import RewriteError

TOLERANCE = 1e-4  # max abs difference of raw head outputs (box logits up to ~20): float32 rounding of another summation order


class SplitC2f(nn.Module):
    """C2f with `cv1` as two convs: forward is cat(cv0(x), cv1(x), m0(cv1(x)), m1(...), ...) -> cv2."""

    def __init__(self, block: Any) -> None:
        super().__init__()
        half = block.cv1.conv.out_channels // 2
        self.stock: type[nn.Module] = block.__class__
        self.cv0: Any = _take_outputs(block.cv1, slice(0, half))
        self.cv1: Any = _take_outputs(block.cv1, slice(half, 2 * half))
        self.cv2: Any = block.cv2
        self.m: Any = block.m
        self.training = block.training

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        parts = [self.cv0(x), self.cv1(x)]
        for bottleneck in self.m:
            parts.append(bottleneck(parts[-1]))
        out: torch.Tensor = self.cv2(torch.cat(parts, 1))
        return out


def _shell(conv: Any, outputs: int) -> Any:
    """A copy of an ultralytics `Conv` with `outputs` output channels and uninitialised weights."""
    source = conv.conv
    copy = deepcopy(conv)
    copy.conv = nn.Conv2d(
        source.in_channels,
        outputs,
        source.kernel_size,
        source.stride,
        source.padding,
        source.dilation,
        bias=source.bias is not None,
    )
    copy.bn = nn.BatchNorm2d(outputs, eps=conv.bn.eps, momentum=conv.bn.momentum)
    return copy


def _take_outputs(conv: Any, which: slice) -> Any:
    """The same `Conv` restricted to some output channels."""
    if conv.conv.groups != 1:
        raise RewriteError("cannot split a grouped convolution", got=f"groups={conv.conv.groups}")
    width = which.stop - which.start
    part = _shell(conv, width)
    part.conv.weight.data = conv.conv.weight.data[which].clone()
    if conv.conv.bias is not None:
        part.conv.bias.data = conv.conv.bias.data[which].clone()
    for name in ("weight", "bias", "running_mean", "running_var"):
        getattr(part.bn, name).data = getattr(conv.bn, name).data[which].clone()
    part.bn.num_batches_tracked.copy_(conv.bn.num_batches_tracked)
    return part.train(conv.training)  # new modules are born in training mode; BN would answer differently


def _join_outputs(first: Any, second: Any) -> Any:
    """One `Conv` whose outputs are those of `first`, then those of `second`."""
    joined = _shell(first, first.conv.out_channels + second.conv.out_channels)
    joined.conv.weight.data = torch.cat([first.conv.weight.data, second.conv.weight.data])
    if first.conv.bias is not None:
        joined.conv.bias.data = torch.cat([first.conv.bias.data, second.conv.bias.data])
    for name in ("weight", "bias", "running_mean", "running_var"):
        getattr(joined.bn, name).data = torch.cat([getattr(first.bn, name).data, getattr(second.bn, name).data])
    joined.bn.num_batches_tracked.copy_(first.bn.num_batches_tracked)
    return joined.train(first.training)


def split_c2f(block: Any) -> nn.Module:
    """C2f -> SplitC2f with the same outputs."""
    return SplitC2f(block)


def merge_c2f(block: SplitC2f) -> nn.Module:
    """SplitC2f -> the stock class it came from.

    Raises:
        RewriteError: the halves have different widths, which a stock C2f cannot express.
    """
    widths = block.cv0.conv.out_channels, block.cv1.conv.out_channels
    if widths[0] != widths[1]:
        raise RewriteError("the halves of a C2f kept different widths", got=widths, fix="keep both halves tied")
    stock: Any = block.stock.__new__(block.stock)
    nn.Module.__init__(stock)
    stock.c = widths[0]
    stock.cv1 = _join_outputs(block.cv0, block.cv1)
    stock.cv2, stock.m = block.cv2, block.m
    stock.training = block.training
    merged: nn.Module = stock
    return merged


def drop_bottlenecks(block: SplitC2f, gone: Collection[int]) -> None:
    """Take whole Bottlenecks out, in place.

    With a shortcut the result equals the block whose `gone` Bottlenecks add nothing: what they pass on is their input, so cv2
    reads that once, by the sum of both blocks of its weights. Without a shortcut their outputs must have been cut before.
    """
    for index in sorted(gone, reverse=True):
        if block.m[index].add:
            before = [block.cv0, block.cv1, *(bottleneck.cv2 for bottleneck in block.m[:index])]
            _fold_inputs(block.cv2.conv, sum(part.conv.out_channels for part in before), block.cv1.conv.out_channels)
        del block.m[index]


def _fold_inputs(conv: Any, start: int, width: int) -> None:
    """Add the weights of inputs `start`…`start + width` to those of the `width` inputs before them, and drop them."""
    first, second, third, fourth = conv.weight.data.tensor_split([start - width, start, start + width], dim=1)
    conv.weight = nn.Parameter(torch.cat([first, second + third, fourth], dim=1))
    conv.in_channels = conv.weight.shape[1]


# stock class -> (to the prunable form, back); matched exactly, since subclasses may compute something else
REWRITES: dict[type[nn.Module], tuple[Callable[[nn.Module], nn.Module], Callable[[SplitC2f], nn.Module]]] = {
    C2f: (split_c2f, merge_c2f),
}

# Layers whose channels the dependency graph follows; others it gets wrong, or never comes back from (attention).
FOLLOWED = frozenset({
    "DetectionModel", "Conv", "DWConv", "SplitC2f", "Bottleneck", "C3", "SPP", "SPPF", "Concat", "Detect", "DFL",
})  # fmt: skip


def not_prunable(network: nn.Module) -> dict[str, int]:
    """Kinds of layers in a prunable network whose channels cannot be followed, and how many there are of each."""
    counts: dict[str, int] = {}
    for module in network.modules():
        kind = type(module)
        if kind.__module__.startswith("torch."):
            known = isinstance(module, (nn.Conv2d, nn.BatchNorm2d)) or not list(module.parameters(recurse=False))
        else:
            known = kind.__name__ in FOLLOWED
        if not known:
            counts[kind.__name__] = counts.get(kind.__name__, 0) + 1
    return counts


def _replace(network: nn.Module, pick: Callable[[nn.Module], nn.Module | None]) -> nn.Module:
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            new = pick(child)
            if new is None:
                continue
            for tag in ("i", "f", "type", "np"):  # where ultralytics' forward takes the layer's input from
                if hasattr(child, tag):
                    setattr(new, tag, getattr(child, tag))
            setattr(parent, name, new)
    return network


def to_prunable(network: nn.Module) -> nn.Module:
    """A copy of the network with every block of `REWRITES` in its prunable form."""
    return _replace(deepcopy(network), lambda m: REWRITES[type(m)][0](m) if type(m) in REWRITES else None)


def to_stock(network: nn.Module) -> nn.Module:
    """A copy of the network with every prunable block merged back."""
    return _replace(deepcopy(network), lambda m: REWRITES[m.stock][1](m) if isinstance(m, SplitC2f) else None)


def head_outputs(network: nn.Module, images: torch.Tensor) -> dict[str, torch.Tensor]:
    """Raw head outputs before decoding: boxes (n, 4·reg_max, anchors) and scores (n, classes, anchors), logits."""
    out = network(images)
    raw = out[1] if isinstance(out, (tuple, list)) else out
    return {"boxes": raw["boxes"], "scores": raw["scores"]}


@torch.no_grad()
def max_difference(first: nn.Module, second: nn.Module, images: torch.Tensor) -> float:
    """Largest absolute difference of the two networks' raw outputs on `images` (n, 3, s, s)."""
    a, b = head_outputs(first.eval(), images), head_outputs(second.eval(), images)
    return float(torch.stack([(a[key] - b[key]).abs().max() for key in a]).max())  # NaN wins, unlike in Python's max


def prove_equal(first: nn.Module, second: nn.Module, images: torch.Tensor, what: str, tolerance: float = TOLERANCE) -> float:
    """The difference, once it is known to be small.

    Raises:
        RewriteError: it is larger than `tolerance`.
    """
    difference = max_difference(first, second, images)
    if not difference <= tolerance:
        raise RewriteError(f"{what} changed the outputs", got=f"max abs difference {difference:.3g} > {tolerance:.3g}")
    return difference


__all__ = [
    "REWRITES",
    "SplitC2f",
    "drop_bottlenecks",
    "head_outputs",
    "max_difference",
    "not_prunable",
    "prove_equal",
    "to_prunable",
    "to_stock",
]
