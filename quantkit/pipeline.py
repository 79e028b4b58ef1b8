"""The whole flow on one page: load -> fold -> fuse -> observe -> quantize.

convert stops after fuse with weights in s8; calibrate goes on from there; quantize does both at once.
"""

from __future__ import annotations

import functools
import inspect
import json
import os
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quantkit.errors import (
    CalibrationError,
    DataError,
    ModelError,
    QuantkitError,
    StepFailedError,
    UsageError,
    first_line,
)
from quantkit.quantize.keep import keep_rule
from quantkit.types import Decision, QuantConfig

if TYPE_CHECKING:
    import numpy as np
    import onnx
    import onnx_ir as ir

    from quantkit.quantize.select import Selection

Progress = Callable[[str, int, "int | None"], None]
KEEP_KEY = "quantkit.keep_fp32"
"""Metadata: the expressions of `--keep-fp32` that a model was converted with, as JSON."""

OPTIONS = ("preprocess", "labels", "samples", "batch_size", "strict", "threads", "table_in", "table_out", "progress",
           "warn")  # fmt: skip
"""What `calibrate` and `quantize` take beside the configuration."""

WRONG_KIND = {
    "fp32": "is an FP32 model",
    "converted": "is already converted; fix its ranges with `quantkit calibrate`",
    "calibrated": "is already quantized by quantkit; give the FP32 model that it was made from",
    "foreign-int8": "is already quantized, by another tool or in an export; give the FP32 model that it was made from",
}
PARTIAL_KINDS = ("calibrated", "foreign-int8")
"""What may hold FP32 layers beside quantized ones."""


@dataclass
class ModelResult:
    """A model that a stage made, and what was decided on the way. `kind`: fp32 | converted | calibrated, or
    foreign-int8 where nothing could be added to a model that another tool has quantized in part."""

    model: ir.Model
    kind: str
    decisions: list[Decision]
    sources: list[Path] = field(default_factory=list)

    @property
    def proto(self) -> onnx.ModelProto:
        from quantkit.load import to_proto

        return to_proto(self.model)

    def save(self, path: str | Path, force: bool = False) -> None:
        """Writes the ONNX file whole or not at all.

        Raises OutputError: it exists (without force), its folder is missing, or it is the model that was read.
        """
        from quantkit.report.files import check_output
        from quantkit.report.models import save

        save(self.model, check_output(Path(path), inputs=self.sources, force=force))

    def _repr_html_(self) -> str:
        """What a notebook shows: the kind of model, its size, and what was decided."""
        from quantkit.report.html import model_card

        return model_card(self)


def fused_model(model: Any, keep_fp32: Iterable[str] = (), partial: bool = False
                ) -> tuple[ir.Model, list[Decision]]:  # fmt: skip
    """load -> fold -> fuse: an FP32 model as fused FP32 ops in memory. A step that breaks is left out, and named.

    partial: a model that is quantized in part comes with that part as static quantkit ops, as far as they can be.
    Raises ModelError if it is not FP32, UsageError if a regular expression of keep_fp32 matches no node.
    """
    failures: dict[str, Decision] = {}
    while True:
        try:
            fused, decisions = _fused_without(model, keep_fp32, partial, failures)
            return fused, [*failures.values(), *decisions]
        except StepFailedError as failure:
            if failure.step in failures:
                raise
            failures[failure.step] = Decision(failure.stage, "undone", failure.step, str(failure))


def _fused_without(model: Any, keep_fp32: Iterable[str], partial: bool, skip: Collection[str]
                   ) -> tuple[ir.Model, list[Decision]]:  # fmt: skip
    """As `fused_model`, without the steps `skip`. Raises StepFailedError for one that breaks."""
    from quantkit.fold import fold
    from quantkit.foreign.partial import adopt, rest_in_words, settle
    from quantkit.fuse import fuse
    from quantkit.load import artifact_kind, load, load_decisions
    from quantkit.load.precision import to_single

    loaded = load(model)
    kind = artifact_kind(loaded)
    if kind != "fp32" and not (partial and kind in PARTIAL_KINDS):
        raise ModelError(f"{_label(model)} {WRONG_KIND[kind]}{rest_in_words(loaded) if kind in PARTIAL_KINDS else ''}")
    decisions = load_decisions(loaded)
    names = [node.name or "" for node in loaded.graph]
    if kind != "fp32":
        decisions += adopt(loaded)
    loaded, converted = to_single(loaded)
    decisions += converted
    decisions += fold(loaded, skip)
    settle(loaded)
    keep = keep_rule(keep_fp32, [*names, *(node.name or "" for node in loaded.graph)])
    decisions += fuse(loaded, keep, skip)
    return loaded, decisions


def fused_float(model: Any, int8: Any = None) -> onnx.ModelProto:
    """The folded FP32 graph in standard ops, its tensors named as the calibrated model's `..._quantized` ones.

    int8: that calibrated model, if its channels may have been scaled or shifted: the tensors are then shown likewise.
    """
    import onnx_ir as ir

    from quantkit.fuse.expand import expand
    from quantkit.load import load
    from quantkit.load.parts import with_whole_paths
    from quantkit.quantize.equalize import EQUALIZED_KEY, from_json, show_equalized

    expanded = expand(fused_model(model, partial=True)[0])
    record = None if int8 is None else load(getattr(int8, "model", int8)).metadata_props.get(EQUALIZED_KEY)
    if record is not None:
        show_equalized(expanded, from_json(record))
    with_whole_paths(expanded)
    return ir.to_proto(expanded)


def _explained(stage: Callable[..., ModelResult]) -> Callable[..., ModelResult]:
    """What no stage foresaw still ends in one clear message: ModelError with the cause. QUANTKIT_DEBUG shows it raw."""

    own = inspect.signature(stage).parameters

    @functools.wraps(stage)
    def run(model: Any, *args: Any, **options: Any) -> ModelResult:
        unknown = [name for name in options if name not in own and ("options" not in own or name not in OPTIONS)]
        if unknown:
            known = [name for name in own if own[name].kind is inspect.Parameter.KEYWORD_ONLY]
            takes = ", ".join([*known, *(OPTIONS if "options" in own else ())])
            raise UsageError(f"{stage.__name__} has no option {unknown[0]!r}; it has {takes}")
        try:
            return stage(model, *args, **options)
        except QuantkitError:
            raise
        except Exception as error:
            if os.environ.get("QUANTKIT_DEBUG"):
                raise
            raise ModelError(
                f"{_label(model)}: {stage.__name__} failed ({type(error).__name__}: {first_line(error)}); "
                "set QUANTKIT_DEBUG=1 to see where, and please report it"
            ) from error

    return run


@_explained
def convert(model: Any, *, keep_fp32: Iterable[str] = (), progress: Progress | None = None) -> ModelResult:
    """FP32 model (path, ModelProto, onnx_ir.Model) -> the converted model: s8 weights, ranges not fixed yet.

    keep_fp32: regular expressions over node names that stay FP32.
    Raises ModelError for a model that cannot be used, UsageError for an expression that matches nothing.
    """
    from quantkit.load.origin import sign
    from quantkit.quantize.dynamic import to_dynamic

    tell = progress or _silent
    tell("convert", 0, 2)
    fused, decisions = fused_model(model, keep_fp32)
    tell("convert", 1, 2)
    decisions += to_dynamic(fused)
    fused.metadata_props[KEEP_KEY] = json.dumps([keep_fp32] if isinstance(keep_fp32, str) else list(keep_fp32))
    sign(fused)
    tell("convert", 2, 2)
    return ModelResult(fused, "converted", decisions, _paths(model))


@_explained
def calibrate(converted: Any, data: Any, *, config: QuantConfig | None = None, reference: Any = None,
              warn: Callable[[str], None] | None = None, **options: Any) -> ModelResult:  # fmt: skip
    """Converted model + sample data -> the calibrated INT8 model. Options: those of `quantize`.

    reference: the FP32 model it was made from; by default the file of that name beside it. Its weights are used where
    it is there; without it those of the converted model. Raises ModelError if `reference` is another model.
    """
    from quantkit.load import artifact_kind, load
    from quantkit.load.origin import fp32_beside, require_same_source
    from quantkit.quantize.dynamic import to_float

    config = config or QuantConfig()
    loaded = load(converted)
    kind = artifact_kind(loaded)
    had_nothing = kind == "fp32" and KEEP_KEY in loaded.metadata_props  # what `convert` found nothing to quantize in
    if kind != "converted" and not had_nothing:
        hint = "; run `quantkit convert` on it first, or `quantkit quantize`" if kind == "fp32" else ""
        raise ModelError(f"{_label(converted)} {WRONG_KIND[kind]}{hint}")
    keep = (*json.loads(loaded.metadata_props.get(KEEP_KEY, "[]")), *config.keep_fp32)
    found = reference if reference is not None else fp32_beside(converted, loaded, warn)
    if found is not None:
        require_same_source(found, loaded)
        fused, decisions = fused_model(found, keep)
    else:
        keep_rule(config.keep_fp32, [node.name or "" for node in loaded.graph])
        to_float(loaded)
        fused, decisions = loaded, [Decision("load", "used", _label(converted), "weights of the converted model")]
    sources = _paths(converted) + _paths(found)
    config, original = replace(config, keep_fp32=keep), None if found is None else lambda: load(found)
    return _calibrate(fused, data, config, decisions, sources, original, warn=warn, **options)


@_explained
def quantize(model: Any, data: Any, *, config: QuantConfig | None = None, partial: bool = False,
             **options: Any) -> ModelResult:  # fmt: skip
    """FP32 model + sample data -> the calibrated INT8 model.

    model: path, onnx.ModelProto or onnx_ir.Model. data: what `quantkit.observe.open_data` takes.
    partial: the model may be quantized in part; that part stays as it is and the FP32 rest is quantized.
    options: preprocess (preset, TOML path or Preprocess), labels, samples, batch_size, strict, threads,
    table_in / table_out (calibration table, JSON), progress(phase, done, total), warn(message).
    Raises a QuantkitError that says what is wrong with the model, the data or an option.
    """
    config = config or QuantConfig()
    (options.get("progress") or _silent)("prepare", 0, None)
    fused, decisions = fused_model(model, config.keep_fp32, partial)
    from quantkit.load import load

    return _calibrate(fused, data, config, decisions, _paths(model), lambda: load(model), **options)


def compare(fp32: Any, int8: Any, data: Any, **options: Any) -> Any:
    """Accuracy, fidelity, size and speed of an INT8 model against its FP32 original: see quantkit.report.compare."""
    from quantkit.report.compare import compare as compare_models

    return compare_models(fp32, int8, data, float_graph=lambda model: fused_float(model, int8), **options)


def _calibrate(fused: ir.Model, data: Any, config: QuantConfig, decisions: list[Decision], sources: list[Path],
               original: Callable[[], ir.Model] | None, **options: Any) -> ModelResult:  # fmt: skip
    from quantkit.execute.bodies import has_layers_in_bodies
    from quantkit.execute.trial import first_samples
    from quantkit.load import artifact_kind
    from quantkit.observe.streamed import free_models
    from quantkit.quantize.select import select

    keep = keep_rule(config.keep_fp32, None)
    selection = select(fused, keep)
    if not selection.forms and not has_layers_in_bodies(fused):
        left = "" if artifact_kind(fused) == "fp32" else " is left in FP32"
        reason = f"{selection.why_empty}{left}: INT8 would gain nothing"
        return _stays_fp32(fused, [*decisions, *selection.decisions], reason, sources, original() if original else None)
    free_models(fused)
    data, head = first_samples(fused, data, options)
    done = _calibrate_graph(fused, selection, keep, data, head, config, decisions, sources, original, **options)
    if has_layers_in_bodies(fused):
        _quantize_bodies(done, fused, head, config, keep, options.get("threads"))
    return done


def _quantize_bodies(done: ModelResult, fused: ir.Model, samples: list[dict[str, np.ndarray]], config: QuantConfig,
                     keep: Callable[[str], bool], threads: int | None) -> None:  # fmt: skip
    """INT8 in the bodies of If, Loop and Scan of a finished model, where it helps."""
    from quantkit.execute.bodies import quantize_bodies
    from quantkit.load import artifact_kind
    from quantkit.load.origin import sign

    made, decisions = quantize_bodies(done.model, fused, samples, lambda body: fused_model(body)[0], config, keep,
                                      threads)  # fmt: skip
    if made is not done.model:
        done.model, done.kind = made, artifact_kind(made)
        nodes = {d.node.rpartition("/")[0] for d in decisions if d.action == "calibrated"}
        done.decisions = [replace(d, node="main graph") if d.node == "model" else d for d in done.decisions
                          if not (d.node in nodes and d.action == "kept")]  # fmt: skip
        sign(made)
    done.decisions += decisions


def _calibrate_graph(fused: ir.Model, selection: Selection, keep: Callable[[str], bool], data: Any,
                     head: list[dict[str, np.ndarray]], config: QuantConfig, decisions: list[Decision],
                     sources: list[Path], original: Callable[[], ir.Model] | None, **options: Any
                     ) -> ModelResult:  # fmt: skip
    """`_calibrate` for the main graph; bodies of control flow stay as they are. head: the first samples."""
    from quantkit.execute.binding import NativeStatistics
    from quantkit.execute.bodies import has_layers_in_bodies
    from quantkit.execute.intermediate import int8_opener
    from quantkit.execute.nearest import nearest, retreat
    from quantkit.execute.sums import tried_with_sums
    from quantkit.execute.trial import wreck
    from quantkit.load.origin import sign
    from quantkit.load.prepared import unmark_prepared
    from quantkit.observe.streamed import free_models
    from quantkit.quantize.calibration import Calibrated, Observed
    from quantkit.quantize.finite import calibrate_where_finite

    if not selection.forms:
        reason = f"{selection.why_empty} outside of bodies"
        return _stays_fp32(fused, [*decisions, *selection.decisions], reason, sources)
    fused, selection, trial, told = tried_with_sums(
        fused, selection, keep, head, config, options.get("threads"), original
    )
    decisions = [*decisions, *told]
    decisions = [*decisions, *trial.decisions, *(d for d in selection.decisions if d.node not in trial.keep)]
    if not selection.forms:
        gains_nothing = trial.unfolded or not (trial.timing or has_layers_in_bodies(fused))
        return _stays_fp32(fused, decisions, trial.verdict, sources, original() if gains_nothing and original else None)
    runners = {"backend": NativeStatistics(), "open_int8": int8_opener(options.get("threads"))}
    problem, once = "", isinstance(data, Iterator)

    def calibrated(by: QuantConfig, observed: Observed | None = None) -> Calibrated:
        return calibrate_where_finite(fused, selection, data, by, observed, **(runners | options))

    for tried in retreat(config, once):
        try:
            found = nearest(calibrated, tried, trial, options.get("threads"), once=once)
            done, reason = found.done, f"the INT8 model is not usable: {found.problem}"
            if found.problem:
                return _stays_fp32(fused, decisions, reason, sources, original() if original else None)
            unmark_prepared(done.model)
            free_models(fused)
            problem = wreck(done.model, trial, options.get("threads"))
        except (UsageError, DataError, CalibrationError):  # what the user gave, not what was made of it
            raise
        except Exception as error:  # whatever a method raises: a plainer one may do
            problem = f"{type(error).__name__}: {first_line(error)}"
        free_models(fused)
        if not problem:
            sign(done.model)
            return ModelResult(done.model, "calibrated", [*decisions, *done.decisions], sources)
        how = f"effort {tried.effort}" + (f" with {tried.method}" if tried.method else "")
        decisions.append(Decision("quantize", "undone", "model", f"{how} gave a model that fails: {problem}"))
    own = original() if original else None
    return _stays_fp32(fused, decisions, f"the INT8 model is not usable: {problem}", sources, own)


def _stays_fp32(fused: ir.Model, decisions: list[Decision], reason: str, sources: list[Path],
                unfolded: ir.Model | None = None) -> ModelResult:  # fmt: skip
    """The folded FP32 model, or the one before folding where that is given: folding gains nothing, or nobody knows."""
    from quantkit.fuse.expand import expand
    from quantkit.load import KEPT_KEY, artifact_kind

    plain = expand(fused) if unfolded is None else unfolded
    plain.metadata_props[KEPT_KEY] = reason
    note = Decision("quantize", "kept", "model", reason)
    return ModelResult(plain, artifact_kind(plain), [*decisions, note], sources)


def _paths(model: Any) -> list[Path]:
    return [Path(model)] if isinstance(model, str | Path) else []


def _label(model: Any) -> str:
    return str(model) if isinstance(model, str | Path) else "the model"


def _silent(phase: str, done: int, total: int | None) -> None:
    """Progress that nobody wants to see."""
