"""Channel scores kept on disk: gradients over all training pictures are taken once for a folder, not again after a stop."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from toolchain.pruning.criteria import GroupScores
from toolchain.pruning.prune import score_channels
from toolchain.pruning.sensitivity import Loaded
from toolchain.selection import spent
from toolchain.stage import Stages, read_json, write_json

FILE = "scores.json"


def kept_scores(at: Loaded, stages: Stages, *, imgsz: int, criterion: str, images: int | None, seed: int) -> GroupScores:
    """Scores of every free group, from the folder if the same were made there.

    Args:
        images: training pictures of a criterion that needs any; None: all.

    Raises:
        UnknownNameError, PruningError: as `criteria.score`.
    """

    def work(folder: Path) -> dict[str, int]:
        scores = score_channels(at.prunable, at.network, at.dataset, imgsz=imgsz, criterion=criterion, images=images, seed=seed)
        write_json(folder / FILE, {group: [part.tolist() for part in parts] for group, parts in scores.items()})
        return {"groups": len(scores)}

    done = stages.run(
        f"{at.model.stem}-{imgsz}-scores", work, inputs={"model": at.loaded.sha256, "data": at.dataset.sha256},
        params={"imgsz": imgsz, "criterion": criterion, "images": images, "seed": seed}, keep_outputs=(FILE,),
    )  # fmt: skip
    spent.count(not done.reused, done.reused)
    return {group: [np.array(part) for part in parts] for group, parts in read_json(done / FILE).items()}
