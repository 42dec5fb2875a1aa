"""Which of several starts is worth training: each is cut, trained briefly and judged on training pictures it was not shown.

A prediction cannot tell: right after the cut a smaller picture always looks better than narrower layers, and training gives back
far more to the layers.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from toolchain.errors import DataError
from toolchain.yolo.dataset import Dataset

JUDGES = 0.2  # share of the training pictures that judge
LEAST = 4  # pictures that judge


def held_back(dataset: Dataset, seed: int) -> Dataset:
    """The training pictures alone: most of them as `train`, a seeded choice of the others as `val`.

    Raises:
        DataError: too few training pictures.
    """
    images = dataset.images("train")
    count = round(JUDGES * len(images))
    if count < LEAST:
        got = f"{len(images)}, needed {LEAST / JUDGES:.0f}"
        raise DataError("too few training pictures to compare starts on", got=got, fix="give one model and one picture size")
    judges = set(np.random.default_rng(seed).choice(len(images), count, replace=False).tolist())
    learn = [path for i, path in enumerate(images) if i not in judges]
    return replace(dataset, splits={"train": learn, "val": [images[i] for i in sorted(judges)]})
