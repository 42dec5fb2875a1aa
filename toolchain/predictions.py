"""Raw detections of an engine or module over a set of pictures: the one format evaluation reads."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from toolchain.errors import DataError

MIN_SCORE = 0.001  # candidates below are dropped before they travel; ultralytics' validator uses the same threshold


@dataclass(frozen=True)
class Predictions:
    """Candidates before non-maximum suppression.

    Attributes:
        rows: (m, 4 + classes) float32; centre x, centre y, width, height in network pixels, then scores 0..1.
        counts: (n,) int64, rows of each picture in order; sums to m.
    """

    rows: NDArray[np.float32]
    counts: NDArray[np.int64]

    def of(self, index: int) -> NDArray[np.float32]:
        """Rows of picture `index`."""
        start = int(self.counts[:index].sum())
        return self.rows[start : start + int(self.counts[index])]

    def save(self, path: Path) -> None:
        np.savez(path, rows=self.rows, counts=self.counts)

    @staticmethod
    def load(path: Path) -> Predictions:
        """Read and check a file that may have come from a device.

        Raises:
            DataError: not an .npz of the two arrays, or the shapes do not fit each other.
        """
        try:
            with np.load(path, allow_pickle=False) as data:
                rows, counts = data["rows"], data["counts"]
        except (OSError, EOFError, ValueError, KeyError, TypeError, IndexError, AttributeError, MemoryError,
                zipfile.BadZipFile, RuntimeError) as error:  # fmt: skip
            raise DataError("not a predictions file", got=f"{path}: {error}") from error
        if rows.ndim != 2 or rows.dtype != np.float32 or counts.ndim != 1 or not np.issubdtype(counts.dtype, np.integer):
            raise DataError("predictions have the wrong shape or type", got=f"{path}: {rows.shape} {rows.dtype}")
        if (counts < 0).any() or int(counts.sum()) != len(rows):
            raise DataError("predictions are inconsistent: counts do not add up to the rows", got=str(path))
        return Predictions(rows, counts.astype(np.int64))


def candidates(output: NDArray[np.float32], min_score: float = MIN_SCORE) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Keep the anchors whose best class score exceeds `min_score`.

    Args:
        output: (n, 4 + classes, anchors) float32, a YOLOv8 head's decoded output.

    Returns:
        rows and counts as in `Predictions`.
    """
    by_anchor = output.transpose(0, 2, 1)
    keep = by_anchor[..., 4:].max(axis=2) > min_score
    return np.ascontiguousarray(by_anchor[keep]), keep.sum(axis=1).astype(np.int64)
