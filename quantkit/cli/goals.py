"""Accuracy goals: what was asked, what was reached, exit code 3 when it was missed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from quantkit.cli.console import Console
from quantkit.cli.options import DataOptions, GoalOptions
from quantkit.errors import AccuracyGoalMissed, UsageError

if TYPE_CHECKING:
    from quantkit.report.compare import Comparison


def goal_reference(goals: GoalOptions, model: Path, given: Path | None, is_fp32: bool) -> Path | None:
    """The FP32 model that the goals are judged against: `given`, `model` itself or the one beside it; None: no goal.

    Raises UsageError if there is a goal and no FP32 model, before any work.
    """
    if goals == GoalOptions(None, None, None):
        return None
    if given is not None or is_fp32:
        return given or model
    from quantkit.cli.inputs import find_reference

    return find_reference(model)


def require_labels(goals: GoalOptions, model: Path, data: str, sampling: DataOptions) -> None:
    """Raise UsageError before any work if --max-drop cannot be judged for lack of labels."""
    if goals.max_drop is None:
        return
    from quantkit.cli.inputs import open_samples

    if not open_samples(model, data, sampling).has_labels:
        raise UsageError(
            f"--max-drop needs labels, but {data} has none; give --labels FILE.csv or use --min-agreement or --min-sqnr"
        )


def check_goals(
    goals: GoalOptions,
    reference: Path,
    int8: Path,
    data: str,
    sampling: DataOptions,
    threads: int | None,
    isa: str | None,
    console: Console,
) -> None:
    """Compare `int8` with its FP32 reference on `data`. Raises AccuracyGoalMissed."""
    from quantkit import pipeline

    comparison = pipeline.compare(
        reference,
        int8,
        data,
        **vars(sampling),
        threads=threads,
        isa=isa,
        layers=False,
        seconds=0.0,
        progress=console.progress,
        warn=console.warn,
    )
    missed = missed_goals(goals, comparison)
    if missed:
        raise AccuracyGoalMissed(f"accuracy goal missed: {'; '.join(missed)}. {int8} was saved all the same")


def missed_goals(goals: GoalOptions, comparison: Comparison) -> list[str]:
    """One phrase for each goal that `comparison` does not reach."""
    missed = []
    fp32, int8 = comparison.fp32["top1"], comparison.int8["top1"]
    if goals.max_drop is not None and fp32 is not None and int8 is not None:
        drop = 100 * (fp32 - int8)
        if drop > goals.max_drop + 1e-9:  # 1e-9: 0.896 - 0.891 is a hair more than 0.005
            missed.append(f"top-1 drops by {drop:.2f} points, --max-drop {goals.max_drop:g}")
    if goals.min_agreement is not None and (comparison.agreement or 0.0) < goals.min_agreement:
        missed.append(f"agreement is {comparison.agreement or 0.0:.4f}, --min-agreement {goals.min_agreement:g}")
    if goals.min_sqnr is not None and comparison.sqnr_db < goals.min_sqnr:
        missed.append(f"output SQNR is {comparison.sqnr_db:.2f} dB, --min-sqnr {goals.min_sqnr:g}")
    return missed
