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
            counts = Counter(map(pattern, details))
        if len(counts) > SHOWN:
            counts = Counter({f"{len(counts)} kinds; see --verbose": len(details)})
        rows += [[str(count), stage, action, what] for what, count in counts.items()]
    return rows


def pattern(detail: str) -> str:
    """`into Conv /stem/Conv` -> `into Conv *`: words that look like names or numbers give way to a star."""
    words = ["*" if NAME_LIKE.search(word) else word for word in detail.split()]
    return " ".join(word for i, word in enumerate(words) if word != "*" or words[i - 1 : i] != ["*"])


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
