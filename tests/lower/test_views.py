"""Strided views and the arena: pure arithmetic, judged by numpy's own strides."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantkit.lower.arena import aligned, live_peak, place
from quantkit.lower.views import Buffer, View, channels_last, merge, reshape_view, row_major


def as_array(view, memory):
    strides = tuple(0 if d == 1 else s for d, s in zip(view.dims, view.strides, strict=True))
    return np.lib.stride_tricks.as_strided(memory[view.offset :], view.dims, strides)


def filled(view):
    return np.arange(view.buffer.size, dtype=np.uint8 if view.buffer.size < 256 else np.uint32).view(np.uint8)


DIMS = st.lists(st.integers(1, 4), min_size=1, max_size=5)


@settings(max_examples=300, deadline=None)
@given(DIMS, st.randoms(use_true_random=False), st.data())
def test_a_reshaped_view_shows_the_same_elements_or_says_that_it_cannot(dims, random, data):
    order = list(range(len(dims)))
    random.shuffle(order)
    size = int(np.prod(dims))
    view = View(Buffer(size), tuple(dims), row_major(dims)).permuted(order)
    factors = list(view.dims)
    target = (
        data.draw(st.permutations(factors)) if data.draw(st.booleans()) else [int(np.prod(factors[:2])), *factors[2:]]
    )
    memory = np.random.default_rng(0).integers(0, 255, size).astype(np.uint8)
    found = reshape_view(view, target)
    expected = as_array(view, memory).reshape(target)
    if found is not None:
        np.testing.assert_array_equal(as_array(found, memory), expected)
    elif order == sorted(order):
        raise AssertionError("a dense tensor can always be reshaped")


@pytest.mark.parametrize("dims", [(2, 3, 4, 5), (2, 3, 4), (2, 3), (7,)])
def test_channels_last_puts_axis_one_innermost(dims):
    order = (0, *range(2, len(dims)), 1) if len(dims) > 2 else tuple(range(len(dims)))
    expected = np.empty([dims[i] for i in order], np.uint8).transpose(np.argsort(order)).strides
    assert channels_last(dims) == expected


def test_merging_joins_only_what_is_contiguous_in_every_operand():
    assert merge((2, 3, 4), (12, 4, 1)) == ([24], [[1]])
    assert merge((2, 3, 4), (12, 4, 1), (12, 4, 2)) == ([6, 4], [[4, 1], [4, 2]])
    assert merge((1, 1), (5, 7)) == ([1], [[0]])


def test_broadcasting_repeats_with_stride_zero():
    view = View(Buffer(3), (3, 1), (1, 1)).broadcast((2, 3, 4))
    memory = np.array([10, 20, 30], np.uint8)
    np.testing.assert_array_equal(as_array(view, memory), np.broadcast_to(memory.reshape(3, 1), (2, 3, 4)))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 500), st.integers(0, 20), st.integers(0, 20)), min_size=1, max_size=30))
def test_buffers_that_live_together_never_overlap(lives):
    buffers = [Buffer(size, first=min(a, b), last=max(a, b)) for size, a, b in lives]
    peak = place(buffers)
    for i, a in enumerate(buffers):
        assert a.offset % 64 == 0
        assert a.offset + aligned(a.size) <= peak
        for b in buffers[:i]:
            together = a.first <= b.last and b.first <= a.last
            apart = a.offset + a.size <= b.offset or b.offset + b.size <= a.offset
            assert apart or not together
    assert peak >= live_peak(buffers)
