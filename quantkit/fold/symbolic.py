"""Sizes known only at run time, as polynomials with integer coefficients over named dimensions."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

QUOTIENTS = ("floor(", "trunc(")
"""How symbols of inexact divisions begin; unlike dimensions they may be negative."""
LONGEST_SHOWN = 24
"""Characters of an expression in a message."""


class Rounded(str):
    """The symbol of an operation on sizes that is no polynomial, named after it: equals are equal strings.

    op_type: the ONNX op that computes it from `operands`, as int64: Div (towards zero) or Min.
    """

    op_type: str
    operands: tuple[Dim, Dim]

    @staticmethod
    def named(name: str, op_type: str, *operands: Dim) -> Rounded:
        """The symbol `name` for op_type(*operands)."""
        made = Rounded(name)
        made.op_type, made.operands = op_type, (operands[0], operands[1])
        return made


@dataclass(frozen=True)
class Size:
    """A size that depends on at least one symbol: sum of coefficient * product of symbols.

    terms: ((symbols sorted by name), coefficient), sorted, no zero coefficients; the empty tuple is the constant term.
    Symbols stand for dimensions, which are >= 0. Arithmetic gives an int as soon as no symbol is left.
    """

    terms: tuple[tuple[tuple[str, ...], int], ...]

    def __add__(self, other: Dim) -> Dim:
        return _from_terms([*self.terms, *_terms(other)])

    def __sub__(self, other: Dim) -> Dim:
        return _from_terms([*self.terms, *((symbols, -factor) for symbols, factor in _terms(other))])

    def __rsub__(self, other: int) -> Dim:
        return _from_terms([((), other), *((symbols, -factor) for symbols, factor in self.terms)])

    def __mul__(self, other: Dim) -> Dim:
        products = [
            (tuple(sorted((*p, *q))), factor * other_factor)
            for p, factor in self.terms
            for q, other_factor in _terms(other)
        ]
        return _from_terms(products)

    __radd__ = __add__
    __rmul__ = __mul__

    def __neg__(self) -> Dim:
        return self * -1

    def __str__(self) -> str:
        texts = []
        for symbols, factor in reversed(self.terms):
            product = "*".join(symbols)
            texts.append(product if factor == 1 and symbols else "*".join(filter(None, [str(factor), product])))
        return " + ".join(texts).replace("+ -", "- ")

    @property
    def symbols(self) -> frozenset[str]:
        """The names it depends on."""
        return frozenset(name for symbols, _ in self.terms for name in symbols)


Dim = int | Size
"""A dimension: a number, or a Size."""


def symbol(name: str) -> Size:
    """The size called `name`."""
    return Size((((name,), 1),))


def floor_divide(a: Dim, b: Dim) -> Dim:
    """a // b: exact where the division leaves nothing; else a symbol named after the expression (equals stay equal)."""
    return _divide(a, b, "floor")


def truncated_divide(a: Dim, b: Dim) -> Dim:
    """a / b rounded towards zero, as ONNX divides integers; it differs from floor_divide below zero."""
    if isinstance(a, int) and isinstance(b, int):
        return abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)
    negative = any(factor < 0 for value in (a, b) for _, factor in _terms(value))
    return _divide(a, b, "trunc" if negative else "floor")


def _divide(a: Dim, b: Dim, rounding: str) -> Dim:
    if isinstance(a, int) and isinstance(b, int):
        return a // b
    if a == b:
        return 1
    quotient = exact_quotient(a, b)
    if quotient is not None:
        return quotient
    return symbol(Rounded.named(f"{rounding}({_operand(a)}/{_operand(b)})", "Div", a, b))


def smaller(a: Dim, b: Dim) -> Dim:
    """min(a, b), which is a symbol where it depends."""
    if isinstance(a, int) and isinstance(b, int):
        return min(a, b)
    return a if a == b else symbol(Rounded.named(f"min({a}, {b})", "Min", a, b))


def broadcast(a: Dim, b: Dim) -> Dim | None:
    """The common dimension of two operands that fit; None where that depends on the symbols.

    min(n, k) of a number k > 0 fits n only where it is n, or 1: either way the result is n.
    """
    for one, other in ((a, b), (b, a)):
        if one == 1 or one == other:
            return other
        if isinstance(one, int) and one > 1:
            return one
        only = _only_symbol(one)
        if isinstance(only, Rounded) and only.op_type == "Min" and other in only.operands and 0 not in only.operands:
            return other
    return None


def _only_symbol(value: Dim) -> str | None:
    """The name where `value` is one symbol and nothing else."""
    name = next(iter(value.symbols), None) if isinstance(value, Size) else None
    return name if name is not None and value == symbol(name) else None


def _operand(value: Dim) -> str:
    return f"({value})" if isinstance(value, Size) and len(value.terms) > 1 else str(value)


def shown(dims: Iterable[Dim]) -> str:
    """A shape for a message; long expressions are cut."""
    texts = [str(dim) for dim in dims]
    return "[" + ", ".join(text if len(text) <= LONGEST_SHOWN else text[:LONGEST_SHOWN] + "..." for text in texts) + "]"


def exact_quotient(a: Dim, b: Dim) -> Dim | None:
    """q with q * b == a for all values of the symbols, for b a number or a single product; else None."""
    terms_b = _terms(b)
    if len(terms_b) != 1:
        return 1 if a == b else None
    symbols_b, factor_b = terms_b[0]
    result = []
    for symbols, factor in _terms(a):
        left = list(symbols)
        for name in symbols_b:
            if name not in left:
                return None
            left.remove(name)
        if factor_b == 0 or factor % factor_b:
            return None
        result.append((tuple(left), factor // factor_b))
    return _from_terms(result)


def is_size(value: Dim) -> bool:
    """Does `value` depend on symbols and stay at 0 or above whatever they stand for?"""
    if not isinstance(value, Size):
        return False
    return all(factor > 0 for _, factor in value.terms) and not any(s.startswith(QUOTIENTS) for s in value.symbols)


def product(dims: Iterable[Dim]) -> Dim:
    """The product, 1 for none."""
    result: Dim = 1
    for dim in dims:
        result = dim * result if isinstance(dim, Size) else result * dim
    return result


def equals(a: Dim, b: Dim) -> bool | None:
    """True or False where it holds for every value of the symbols, None where it depends."""
    difference = a - b
    if isinstance(difference, int):
        return difference == 0
    if any(name.startswith(QUOTIENTS) for name in difference.symbols):
        return None
    signs = {factor > 0 for _, factor in difference.terms}
    constant_part = dict(difference.terms).get((), 0)
    return False if len(signs) == 1 and constant_part != 0 else None


def _terms(value: Dim) -> tuple[tuple[tuple[str, ...], int], ...]:
    if isinstance(value, Size):
        return value.terms
    return (((), int(value)),) if value else ()


def _from_terms(terms: Iterable[tuple[tuple[str, ...], int]]) -> Dim:
    sums: dict[tuple[str, ...], int] = {}
    for symbols, factor in terms:
        sums[symbols] = sums.get(symbols, 0) + factor
    left = tuple(sorted((symbols, factor) for symbols, factor in sums.items() if factor))
    if not left:
        return 0
    return left[0][1] if len(left) == 1 and left[0][0] == () else Size(left)
