"""Size arithmetic agrees with integer arithmetic for every value of the symbols."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantkit.fold.symbolic import Size, equals, exact_quotient, floor_divide, product, shown, symbol

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
