"""One block of memory for all intermediate tensors of a plan: buffers that never live together share bytes."""

from __future__ import annotations

from collections.abc import Sequence

from quantkit.lower.views import Buffer

ALIGNMENT = 64
"""A cache line, and the width of a zmm register."""


def aligned(size: int) -> int:
    """The least multiple of ALIGNMENT that holds `size` bytes."""
    return -(-size // ALIGNMENT) * ALIGNMENT


def place(buffers: Sequence[Buffer]) -> int:
    """Gives each buffer its offset and returns the bytes needed.

    Largest first, each at the lowest offset that is free for its whole life (greedy by size: Pisarchyk and Lee,
    "Efficient Memory Management for Deep Neural Net Inference", 2020).
    """
    placed: list[Buffer] = []
    peak = 0
    for buffer in sorted(buffers, key=lambda b: (-b.size, b.first)):
        overlapping = [b for b in placed if b.first <= buffer.last and buffer.first <= b.last]
        offset = 0
        for other in sorted(overlapping, key=lambda b: b.offset):
            if offset + aligned(buffer.size) <= other.offset:
                break
            offset = max(offset, other.offset + aligned(other.size))
        buffer.offset = offset
        placed.append(buffer)
        peak = max(peak, offset + aligned(buffer.size))
    return peak


def live_peak(buffers: Sequence[Buffer]) -> int:
    """The largest sum of sizes that is alive at one op: what no placement can go below."""
    steps = {b.first for b in buffers}
    return max((sum(aligned(b.size) for b in buffers if b.first <= s <= b.last) for s in steps), default=0)
