"""Size arithmetic agrees with integer arithmetic for every value of the symbols."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantkit.fold.symbolic import (
    Size,
    broadcast,
    equals,
    exact_quotient,
    floor_divide,
    is_size,
    product,
    shown,
    smaller,
    symbol,
)

VALUES = {"a": 3, "b": 5}
leaves = st.one_of(st.integers(-6, 6), st.sampled_from([symbol("a"), symbol("b")]))
sizes = st.recursive(
    leaves,
    lambda inner: st.tuples(st.sampled_from("+-*"), inner, inner).map(
        lambda t: {"+": lambda p, q: p + q, "-": lambda p, q: p - q, "*": lambda p, q: p * q}[t[0]](t[1], t[2])
    ),
    max_leaves=6,
)


def value(size, values=VALUES):
    if isinstance(size, int):
        return size
    total = 0
    for symbols, factor in size.terms:
        term = factor
        for name in symbols:
            term *= values[name]
        total += term
    return total


@given(sizes, sizes)
def test_arithmetic_agrees_with_numbers(p, q):
    assert value(p + q) == value(p) + value(q)
    assert value(p - q) == value(p) - value(q)
    assert value(p * q) == value(p) * value(q)


@given(sizes, sizes)
def test_an_exact_quotient_is_exact(p, q):
    quotient = exact_quotient(p, q)
    if quotient is not None and value(q):
        assert value(quotient) * value(q) == value(p)


@given(sizes, sizes)
def test_equality_is_only_told_where_it_always_holds(p, q):
    answer = equals(p, q)
    for values in ({"a": 0, "b": 0}, {"a": 1, "b": 2}, VALUES):
        if answer is not None:
            assert answer == (value(p, values) == value(q, values))


def test_a_number_comes_back_as_soon_as_no_symbol_is_left():
    n = symbol("N")
    assert (n + 2) - n == 2
    assert isinstance(n * 0, int)


def test_equal_divisions_give_equal_symbols():
    n = symbol("N")
    assert floor_divide(n + 1, 2) == floor_divide(1 + n, 2)
    assert floor_divide(n * 4, 2) == n * 2
    assert floor_divide(n, n) == 1
    assert str(floor_divide(n + 1, 2)) == "floor((N + 1)/2)"


@pytest.mark.parametrize(("size", "text"), [(symbol("N") * 2 - 1, "2*N - 1"), (symbol("N") * symbol("C"), "C*N")])
def test_sizes_read_well(size, text):
    assert str(size) == text
    assert size.symbols <= {"N", "C"}


def test_long_sizes_are_cut_in_messages():
    long = product([symbol(f"dimension_{i}") for i in range(9)])
    assert isinstance(long, Size)
    assert shown([2, long]).startswith("[2, dimension_0*")
    assert len(shown([long])) < 40


A, B = symbol("a"), symbol("b")


@pytest.mark.parametrize(
    ("one", "other", "common"),
    [(A, A, A), (A, 1, A), (A, 7, 7), (A, B, None), (A, smaller(A, 64), A), (smaller(A, 64), 64, 64),
     (A, smaller(B, 64), None), (A, smaller(A, 0), None), (A + 1, smaller(A + 1, 8), A + 1), (0, A, None)],
)  # fmt: skip
def test_what_two_dimensions_broadcast_to_is_told_only_where_it_does_not_depend(one, other, common):
    assert broadcast(one, other) == common
    assert broadcast(other, one) == common


def test_the_smaller_of_two_sizes_is_a_number_where_both_are():
    assert smaller(3, 5) == 3
    assert smaller(A, A) == A
    assert shown([smaller(A, 5)]) == "[min(a, 5)]"


@pytest.mark.parametrize(
    ("length", "expected"), [(A, True), (A * 2 + 1, True), (A - 1, False), (A - B, False), (3, False)]
)
def test_a_length_is_one_only_if_it_cannot_be_negative(length, expected):
    assert is_size(length) is expected
