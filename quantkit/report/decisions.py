"""What the stages did and refused to do, as text: counts of what was done, reasons for what was not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from quantkit.report.text import table
from quantkit.types import Decision

LEFT_ALONE = ("refused", "kept")
"""Actions that need a reason beside them; all others are counted."""
SHOWN = 12
"""Lines of each list without --verbose."""


def summarize(decisions: Sequence[Decision], everything: bool = False) -> str:
    """Tables of what was done (counted by stage, action and detail) and of what was left alone and why."""
    if everything:
        rows = [[d.stage, d.action, d.node, d.detail] for d in decisions]
        return table(["stage", "action", "node", "detail"], rows) if rows else "nothing to do"
    done = Counter((d.stage, d.action, d.detail) for d in decisions if d.action not in LEFT_ALONE)
    kinds = Counter((d.stage, d.action) for d in decisions if d.action not in LEFT_ALONE)
    parts = []
    if done:
        rows = _counted(done, kinds)
        parts.append(table(["count", "stage", "action", "what"], rows))
    left = [d for d in decisions if d.action in LEFT_ALONE]
    if left:
        rows = [[d.node, d.stage, f"{d.action}: {d.detail}"] for d in left[:SHOWN]]
        parts.append(table(["left alone", "stage", "why"], rows) + _more(len(left)))
    return "\n\n".join(parts) or "nothing to do"


def _counted(done: Counter[tuple[str, str, str]], kinds: Counter[tuple[str, str]]) -> list[list[str]]:
    """One row a detail; a kind with more details than fit (they name nodes) is one row."""
    details = Counter((stage, action) for stage, action, _ in done)
    rows = []
    for (stage, action), count in kinds.items():
        if details[stage, action] > SHOWN:
            rows.append([str(count), stage, action, f"{details[stage, action]} kinds; see --verbose"])
            continue
        rows += [[str(n), stage, action, detail] for (s, a, detail), n in done.items() if (s, a) == (stage, action)]
    return rows


def _more(count: int) -> str:
    return f"\n... and {count - SHOWN} more; see --verbose" if count > SHOWN else ""
