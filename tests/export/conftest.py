"""One traced tiny network for all tests of the room."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.helpers import tiny_model

SIZE, STRIDE = 64, 16


@pytest.fixture(scope="session")
def network() -> Any:
    return tiny_model()


@pytest.fixture(scope="session")
def pictures() -> NDArray[np.uint8]:
    """(3, 3, 64, 64) uint8 with structure at several scales."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 200, (3, 3, 8, 8), dtype=np.uint8).repeat(8, axis=2).repeat(8, axis=3)
    return np.asarray(coarse + rng.integers(0, 50, (3, 3, SIZE, SIZE), dtype=np.uint8), dtype=np.uint8)
