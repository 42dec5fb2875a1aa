"""Two networks run side by side over the same pictures, one top-level layer at a time.

What a layer gives is kept in files until its last reader has run, so memory does not depend on the number of pictures, and a
layer may be changed between what came before it and what comes after.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

PICTURES = -1  # where a network's first layer reads


@dataclass(frozen=True)
class Step:
    """One top-level layer of both networks.

    Attributes:
        path: of the layer in the network.
        dense, cut: the layer in each of them.
        feeds: iterates over what both layers are given, batch by batch: a tensor each, or a list of tensors each.
    """

    path: str
    dense: nn.Module
    cut: nn.Module
    feeds: Callable[[], Iterator[tuple[Any, Any]]]


class Shelf:
    """Feature maps of one network in files, one for each layer and batch."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()

    def put(self, layer: int, batch: int, maps: torch.Tensor) -> None:
        np.save(self.folder / f"{layer}_{batch}.npy", maps.numpy())

    def get(self, layer: int, batch: int) -> torch.Tensor:
        return torch.from_numpy(np.load(self.folder / f"{layer}_{batch}.npy"))

    def drop(self, layer: int) -> None:
        for path in self.folder.glob(f"{layer}_*.npy"):
            path.unlink()


def sources(layer: Any, index: int) -> list[int]:
    """Which layers a top-level layer reads; `PICTURES` for the network's input."""
    read = layer.f if isinstance(layer.f, list) else [layer.f]
    return [f if f >= 0 else index + f for f in read]


@torch.no_grad()
def walk(dense: Any, cut: Any, batches: Iterable[torch.Tensor], work: Path) -> Iterator[Step]:
    """Every layer in forward order. When the next one is asked for, the last one runs as it is then: changes to it count.

    Args:
        dense, cut: DetectionModels in eval mode with the same top-level layers.
        batches: (n, 3, s, s) float32 in 0..1; read once.
        work: existing folder for the feature maps of at most a few layers; left as it was.
    """
    layers = list(zip(dense.model, cut.model, strict=True))
    last = {source: index for index, (layer, _) in enumerate(layers) for source in sources(layer, index)}
    with tempfile.TemporaryDirectory(prefix=".maps-", dir=work) as folder:
        shelves = Shelf(Path(folder) / "dense"), Shelf(Path(folder) / "cut")
        count = 0
        for pictures in batches:
            for shelf in shelves:
                shelf.put(PICTURES, count, pictures)
            count += 1
        for index, pair in enumerate(layers):
            read = sources(pair[0], index)

            def given(shelf: Shelf, batch: int, read: list[int] = read, many: bool = isinstance(pair[0].f, list)) -> Any:
                maps = [shelf.get(source, batch) for source in read]
                return maps if many else maps[0]

            def feeds(given: Callable[[Shelf, int], Any] = given) -> Iterator[tuple[Any, Any]]:
                for batch in range(count):
                    yield given(shelves[0], batch), given(shelves[1], batch)

            yield Step(f"model.{index}", *pair, feeds)
            for layer, shelf in zip(pair, shelves, strict=True):
                for batch in range(count) if index in last else ():
                    shelf.put(index, batch, layer(given(shelf, batch)))
            for source in {s for s in read if last[s] == index}:
                for shelf in shelves:
                    shelf.drop(source)
