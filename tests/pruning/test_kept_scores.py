"""Channel scores are made once for a model, its data and a way of scoring, and are the same from disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.jobs import IMGSZ, make_job
from toolchain.pruning import prune as room
from toolchain.pruning.criteria import GroupScores, Subject, score
from toolchain.pruning.kept_scores import kept_scores
from toolchain.pruning.prune import gather
from toolchain.pruning.sensitivity import load
from toolchain.stage import Stages


def test_scores_are_made_once_and_read_back_bit_for_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_job(tmp_path)
    at, taken = load(tmp_path / "dense.pt", tmp_path / "data/data.yaml", IMGSZ, 2, 0), []

    def watched(*arguments: object) -> object:
        taken.append(arguments)
        return gather(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(room, "gather", watched)

    def kept(criterion: str, seed: int = 0) -> GroupScores:
        return kept_scores(at, Stages(tmp_path / "stages"), imgsz=IMGSZ, criterion=criterion, images=2, seed=seed)

    first, second = kept("fisher"), kept("fisher")
    fresh = score(at.network, Subject(at.prunable, gather(at.prunable, at.dataset, IMGSZ, 2, 0), 0), "fisher")
    assert len(taken) == 1
    assert list(first) == list(second) == list(fresh)
    for name, parts in fresh.items():
        assert [p.tobytes() for p in parts] == [p.tobytes() for p in first[name]] == [p.tobytes() for p in second[name]]
    kept("fisher", seed=1)  # other pictures
    assert len(taken) == 2
    assert any(not np.array_equal(a, b) for name in first for a, b in zip(first[name], kept("l1")[name], strict=True))
    assert len(taken) == 2  # weights alone need no pictures
    kept("fisher")
    assert len(taken) == 2  # what was made before is still there
