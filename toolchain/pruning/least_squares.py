"""Ridge regression from sums that are gathered piece by piece, so that memory depends on the widths alone."""

from __future__ import annotations

from dataclasses import dataclass

import torch

Matrix = torch.Tensor  # float64


@dataclass(frozen=True)
class Sums:
    """All that least squares needs of rows X (n, inputs), the last input being 1, and Y (n, outputs); float64.

    Attributes:
        xx: XᵀX (inputs, inputs).
        xy: XᵀY (inputs, outputs).
        yy: Σ Y² of every output (outputs,).
    """

    xx: Matrix
    xy: Matrix
    yy: Matrix

    @classmethod
    def none(cls, inputs: int, outputs: int) -> Sums:
        """Sums over no rows; `inputs` without the column of ones."""
        sizes = (inputs + 1, inputs + 1), (inputs + 1, outputs), (outputs,)
        return cls(*(torch.zeros(size, dtype=torch.float64) for size in sizes))

    def add(self, x: torch.Tensor, y: torch.Tensor) -> None:
        """Count rows in: x (n, inputs) without the column of ones, y (n, outputs)."""
        x = torch.cat([x.double(), torch.ones(len(x), 1, dtype=torch.float64)], 1)
        y = y.double()
        self.xx.addmm_(x.T, x)
        self.xy.addmm_(x.T, y)
        self.yy.add_(y.square().sum(0))

    def __add__(self, other: Sums) -> Sums:
        return Sums(self.xx + other.xx, self.xy + other.xy, self.yy + other.yy)

    @property
    def rows(self) -> float:
        return float(self.xx[-1, -1])

    @property
    def spread(self) -> float:
        """Σ (Y − mean)² of all outputs."""
        return float((self.yy - self.xy[-1].square() / self.rows).sum())

    def error(self, weight: Matrix) -> float:
        """‖X Wᵀ − Y‖² for W (outputs, inputs), its last column the bias."""
        each = self.yy - 2 * (weight * self.xy.T).sum(1) + ((weight @ self.xx) * weight).sum(1)
        return max(float(each.sum()), 0.0)


def ridge(sums: Sums, start: Matrix, strength: float) -> Matrix:
    """W (outputs, inputs) that minimises ‖X Wᵀ − Y‖² + λ ‖W − start‖²; the bias, its last column, is free.

    Args:
        start: (outputs, inputs).
        strength: λ as a share of the mean Σ x² of an input.

    Returns:
        never a larger error than that of `start`, but for rounding.
    """
    inputs = sums.xx.diagonal()[:-1]
    weight = max(strength * float(inputs.mean()), 1e-12 * sums.rows)  # inputs may all be 0
    penalty = torch.full((len(inputs) + 1,), weight, dtype=torch.float64)
    penalty[-1] = 0
    factor = torch.linalg.cholesky(sums.xx + torch.diag(penalty))
    change = torch.cholesky_solve(sums.xy - sums.xx @ start.T, factor)
    return start + change.T
