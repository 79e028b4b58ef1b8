"""What the stages did and refused to do, as text: counts of what was done, reasons for what was not."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from quantkit.report.text import table
from quantkit.types import Decision

LEFT_ALONE = ("refused", "kept")
"""Actions that need a reason beside them; all others are counted."""
NAME_LIKE = re.compile(r"[/_]|^\W*\d")
NUMBER = re.compile(r"-?\d+(\.\d+)?")
RANGE_LIKE = re.compile(rf"{NUMBER.pattern}(\.\.{NUMBER.pattern})?")
FEW = 3
"""Details of one stage and action that are listed as they are."""
SHOWN = 12
"""Lines of each list that are not grouped; --verbose lists all."""


def summarize(decisions: Sequence[Decision], everything: bool = False) -> str:
    """Tables of what was done (counted by stage, action and detail) and of what was left alone and why."""
    if everything:
        rows = [[d.stage, d.action, d.node, d.detail] for d in decisions]
        return table(["stage", "action", "node", "detail"], rows) if rows else "nothing to do"
    parts = []
    done = [d for d in decisions if d.action not in LEFT_ALONE]
    if done:
        parts.append(table(["count", "stage", "action", "what"], _counted(done)))
    left = [d for d in decisions if d.action in LEFT_ALONE]
    if left:
        parts.append(table(["left alone", "stage", "why"], _reasons(left)))
    return "\n\n".join(parts) or "nothing to do"


def _counted(done: Sequence[Decision]) -> list[list[str]]:
    """One row for each detail; where these are too many, for each pattern; where still too many, one in all."""
    rows = []
    for stage, action in dict.fromkeys((d.stage, d.action) for d in done):
        details = [d.detail for d in done if (d.stage, d.action) == (stage, action)]
        counts = Counter(details)
        if len(counts) > FEW:
            groups: dict[str, list[str]] = {}
            for detail in details:
                groups.setdefault(pattern(detail), []).append(detail)
            counts = Counter({spread(group): len(group) for group in groups.values()})
        if len(counts) > SHOWN:
            counts = Counter({f"{len(counts)} kinds; see --verbose": len(details)})
        rows += [[str(count), stage, action, what] for what, count in counts.items()]
    return rows


def pattern(detail: str, keep: re.Pattern[str] | None = None) -> str:
    """`into Conv /stem/Conv` -> `into Conv *`: words that look like names or numbers give way to a star.

    keep: words that match it stay as they are.
    """
    words = ["*" if NAME_LIKE.search(word) and not (keep and keep.fullmatch(word)) else word for word in detail.split()]
    return " ".join(word for i, word in enumerate(words) if word != "*" or words[i - 1 : i] != ["*"])


def spread(details: Sequence[str]) -> str:
    """What details of one pattern have in common; numbers in the same place become `least..most`."""
    columns = list(zip(*(detail.split() for detail in details), strict=False))
    if any(len(detail.split()) != len(columns) for detail in details):
        return pattern(details[0])
    words = []
    for column in columns:
        numbers = sorted(filter(NUMBER.fullmatch, column), key=float)
        same = len(set(column)) == 1
        words.append(column[0] if same or len(numbers) < len(column) else f"{numbers[0]}..{numbers[-1]}")
    return pattern(" ".join(words), keep=RANGE_LIKE)


def _reasons(left: Sequence[Decision]) -> list[list[str]]:
    """One row for each node; where these are too many, for each pattern of reasons, with its first node."""
    if len(left) <= SHOWN:
        return [[d.node, d.stage, f"{d.action}: {d.detail}"] for d in left]
    groups: dict[tuple[str, str], list[Decision]] = {}
    for decision in left:
        groups.setdefault((decision.stage, f"{decision.action}: {pattern(decision.detail)}"), []).append(decision)
    return [
        [f"{group[0].node} and {len(group) - 1} more" if len(group) > 1 else group[0].node, stage, why]
        for (stage, why), group in groups.items()
    ]
