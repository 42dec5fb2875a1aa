"""Least-squares compensation: right after a cut, and without training, every convolution is solved anew so that what it gives is
nearest to what it gave in the dense network.

In forward order; a layer's inputs X are those of the smaller network, compensated up to there ("asymmetric" reconstruction, He et
al., arXiv 1707.06168; ThiNet, arXiv 1707.06342), its targets Y the dense network's outputs of the same channels before batch
norm:

    min over W, b of  ‖X W + b − Y‖² + λ ‖W − W_cut‖²

b goes into the convolution's bias, or into the running mean of its batch norm. Grouped convolutions stay as they are.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from toolchain import progress
from toolchain.pruning.least_squares import Matrix, Sums, ridge
from toolchain.pruning.side_by_side import Step, walk

STRENGTHS = (1e-6, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # of the ridge, as shares of the mean power of a layer's inputs
DEFAULT_STRENGTH = 1e-2  # where there are too few batches to choose
JUDGES = 4  # every fourth batch does not solve but chooses the strength
POSITIONS = 256  # of a feature map that are looked at in each picture: neighbours say much the same
EXACT = 1e-9  # share of the outputs' spread that is rounding: the layer sees what it saw before the cut
SUMS_BYTES = 512 * 2**20  # of the sums gathered at a time; a single layer may need more

Kept = Mapping[str, tuple[str, NDArray[np.int64]]]  # layer of the cut network -> the dense one's path, and its outputs that stay


@dataclass(frozen=True)
class Mended:
    """One convolution's squared distance from the dense one's outputs, as a share of their spread (1 − R²).

    Attributes:
        layer: module path in the cut network.
        before: with the weights that the cut left.
        after: with those it has now, on the same positions: never more than before.
        strength: of the ridge; None where the weights were left alone.
    """

    layer: str
    before: float
    after: float
    strength: float | None


@torch.no_grad()
def compensate(
    dense: nn.Module, cut: nn.Module, kept: Kept, batches: Iterable[torch.Tensor], work: Path, *, seed: int = 0
) -> list[Mended]:
    """Change the weights of `cut` in place.

    Args:
        dense, cut: the network before and after the cut, in prunable form, eval mode, float32.
        kept: of every convolution of `cut` which one it was, and which of its outputs are left.
        batches: calibration pictures, (n, 3, s, s) float32 in 0..1 each; read once.
        work: existing folder for feature maps; left as it was.
        seed: chooses the positions.

    Returns:
        the convolutions in the order they were solved.
    """
    layers, found = solvable(cut, kept), list[Mended]()
    with progress.task("Compensating the cut", len(layers), "convolutions") as bar:
        for step in walk(dense, cut, batches, work):
            inside = [name for name in layers if name == step.path or name.startswith(f"{step.path}.")]
            for names in _portions(cut, levels(cut, step, inside)):
                for name, (solve, judge) in _gather(dense, cut, kept, step, names, seed).items():
                    found.append(_mend(cut, name, solve, judge))
                    bar.advance(note=name)
    return found


def solvable(network: nn.Module, kept: Kept) -> list[str]:
    """Convolutions that read all their inputs and have a place for a shift."""
    return [
        name for name, module in network.named_modules()
        if name in kept and isinstance(module, nn.Conv2d) and module.groups == 1
        and (module.bias is not None or norm_of(network, name) is not None)
    ]  # fmt: skip


def norm_of(network: nn.Module, conv: str) -> nn.BatchNorm2d | None:
    """The batch norm right behind a convolution, by ultralytics' names."""
    norm = getattr(network.get_submodule(conv.rpartition(".")[0]), "bn", None) if conv.endswith(".conv") else None
    return norm if isinstance(norm, nn.BatchNorm2d) else None


@contextmanager
def _watch(network: nn.Module, names: Sequence[str]) -> Iterator[dict[str, tuple[torch.Tensor, torch.Tensor]]]:
    """What convolutions are given and give, in the order they run."""
    seen: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}

    def note(name: str) -> Any:
        def hook(_: nn.Module, given: tuple[torch.Tensor, ...], gives: torch.Tensor) -> None:
            seen[name] = given[0], gives

        return network.get_submodule(name).register_forward_hook(hook)

    hooks = [note(name) for name in names]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def levels(network: nn.Module, step: Step, names: Sequence[str]) -> list[list[str]]:
    """Convolutions of one top-level layer, those of a level not reading one another: they can be solved together."""
    if not names:
        return []
    _, maps = next(step.feeds())
    with torch.enable_grad(), _watch(network, names) as seen:
        step.cut([each[:1] for each in maps] if isinstance(maps, list) else maps[:1])
        depth: dict[str, int] = {}
        for name, (_, gives) in seen.items():
            weights: list[Any] = [network.get_submodule(other).weight for other in depth]
            slopes = torch.autograd.grad(gives.sum(), weights, retain_graph=True, allow_unused=True) if weights else ()
            read = [depth[other] for other, slope in zip(depth, slopes, strict=True) if slope is not None]
            depth[name] = 1 + max(read, default=-1)
    return [[name for name in depth if depth[name] == level] for level in range(1 + max(depth.values()))]


def _portions(network: nn.Module, found: Sequence[Sequence[str]]) -> Iterator[list[str]]:
    """The same, in portions whose sums fit into memory."""
    for level in found:
        portion: list[str] = []
        used = 0
        for name in level:
            conv: Any = network.get_submodule(name)
            size = 2 * 8 * conv.weight[0].numel() ** 2
            if portion and used + size > SUMS_BYTES:
                yield portion
                portion, used = [], 0
            portion.append(name)
            used += size
        yield portion


def _gather(
    dense: nn.Module, cut: nn.Module, kept: Kept, step: Step, names: Sequence[str], seed: int
) -> dict[str, tuple[Sums, Sums]]:
    """Sums over the batches that solve, and over those that judge."""
    convs: dict[str, Any] = {name: cut.get_submodule(name) for name in names}
    sums = {name: _pair(conv) for name, conv in convs.items()}
    for number, (was, now) in enumerate(step.feeds()):
        with _watch(dense, [kept[name][0] for name in names]) as before:
            step.dense(was)
        with _watch(cut, names) as after:
            step.cut(now)
        for name, conv in convs.items():
            path, outputs = kept[name]
            targets = before[path][1][:, outputs].flatten(2)
            where = _positions(targets.shape[2], [seed, zlib.crc32(name.encode()), number])
            y = targets[:, :, where].transpose(1, 2).flatten(0, 1)
            sums[name][number % JUDGES == JUDGES - 1].add(patches(conv, after[name][0], where), y)
    return sums


def _pair(conv: nn.Conv2d) -> tuple[Sums, Sums]:
    inputs = conv.weight[0].numel()
    return Sums.none(inputs, conv.out_channels), Sums.none(inputs, conv.out_channels)


def _positions(count: int, seed: list[int]) -> torch.Tensor:
    """Seeded positions of a feature map, rising; all of a small one."""
    if count <= POSITIONS:
        return torch.arange(count)
    return torch.from_numpy(np.sort(np.random.default_rng(seed).choice(count, POSITIONS, replace=False)))


def patches(conv: nn.Conv2d, maps: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
    """(n·positions, inputs·kernel) what a convolution multiplies with its weights at some positions of its output.

    Args:
        maps: (n, inputs, height, width).
        where: positions, row by row, in the output.
    """
    (high, wide), (down, right), (dy, dx) = conv.kernel_size, conv.stride, conv.dilation
    pad_y, pad_x = (int(side) for side in conv.padding)
    columns = (maps.shape[-1] + 2 * pad_x - dx * (wide - 1) - 1) // right + 1
    rows, cols = where // columns * down, where % columns * right
    padded = functional.pad(maps, (pad_x, pad_x, pad_y, pad_y))
    taps = [padded[:, :, rows + y * dy, cols + x * dx] for y in range(high) for x in range(wide)]
    return torch.stack(taps, 2).permute(0, 3, 1, 2).flatten(2).flatten(0, 1)


def _mend(network: nn.Module, name: str, solve: Sums, judge: Sums) -> Mended:
    """Solve one convolution; it stays as it is where no strength brings the judging pictures nearer."""
    conv: Any = network.get_submodule(name)
    shift = torch.zeros(conv.out_channels) if conv.bias is None else conv.bias
    start = torch.cat([conv.weight.flatten(1), shift[:, None]], 1).double()
    sums = solve + judge
    before = sums.error(start)
    spread = max(sums.spread, torch.finfo(torch.float64).tiny)
    strength = _strength(solve, judge, start) if before > EXACT * spread else None
    if strength is None:
        return Mended(name, before / spread, before / spread, None)
    found = ridge(sums, start, strength)
    _store(network, name, found)
    return Mended(name, before / spread, sums.error(found) / spread, strength)


def _strength(solve: Sums, judge: Sums, start: Matrix) -> float | None:
    if not judge.rows:
        return DEFAULT_STRENGTH
    errors = {strength: judge.error(ridge(solve, start, strength)) for strength in STRENGTHS}
    best = min(errors, key=lambda strength: errors[strength])
    return best if errors[best] < judge.error(start) else None


def _store(network: nn.Module, name: str, found: Matrix) -> None:
    conv: Any = network.get_submodule(name)
    conv.weight.copy_(found[:, :-1].reshape(conv.weight.shape))
    if conv.bias is not None:
        conv.bias.copy_(found[:, -1])
    else:
        norm: Any = norm_of(network, name)
        norm.running_mean -= found[:, -1].float()
