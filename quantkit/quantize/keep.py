"""Which nodes the user keeps in FP32, by name."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from quantkit.errors import UsageError


def keep_rule(patterns: Iterable[str], names: Iterable[str] | None) -> Callable[[str], bool]:
    """keep(node name): does one of the regular expressions match (re.search)?

    patterns: expressions, or one. With `names`, each must match at least one of them. Raises UsageError for a bad or
    idle expression.
    """
    patterns = [patterns] if isinstance(patterns, str) else patterns
    compiled = []
    known = None if names is None else list(names)
    for pattern in patterns:
        try:
            expression = re.compile(pattern)
        except re.error as error:
            raise UsageError(f"--keep-fp32 {pattern!r} is not a regular expression: {error}") from error
        if known is not None and not any(expression.search(name) for name in known):
            raise UsageError(f"--keep-fp32 {pattern!r} matches no node; `quantkit inspect` lists the names")
        compiled.append(expression)
    return lambda name: any(expression.search(name) for expression in compiled)
