"""INT8 in the bodies of If, Loop and Scan: each body is a model of its own, fed with what the float model feeds it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from quantkit.budgets import BODY_SECONDS, Deadline
from quantkit.errors import first_line
from quantkit.execute.control import ControlStep, RunBody
from quantkit.execute.gain import speed_ratio
from quantkit.execute.session import Session
from quantkit.execute.trial import Trial, run_trial, wreck
from quantkit.fuse.expand import expand
from quantkit.fuse.graph import CONTROL_FLOW, bodies_of, is_standard, layers_in_bodies
from quantkit.fuse.judged import bounded_tensors, judged_tensors
from quantkit.load.parts import body_model, captured, copied
from quantkit.load.prepared import unmark_prepared
from quantkit.observe import Batch, FloatRunner, observe
from quantkit.quantize.apply import apply, attach_functions
from quantkit.quantize.calibration import DEFAULT_METHOD, all_weights, observed_tensors, table_ranges, weighted_inputs
from quantkit.quantize.qparams import params_from_range
from quantkit.quantize.select import Selection, select
from quantkit.types import METHODS, Decision, QuantConfig

FEEDS_MOST = 32
"""Feeds that a body is calibrated on, evenly spread over the iterations of all samples."""
RECORDED_MOST = 1 << 28
"""Bytes of feeds recorded for one body; later iterations are left out."""
GAIN_LEAST = 1.03
"""The whole model must be this many times as fast: the control flow runs in Python once its bodies are INT8."""

Feeds = Mapping[str, np.ndarray]
Fuse = Callable[[ir.Model], ir.Model]
"""load -> fold -> fuse."""


@dataclass
class _Work:
    fuse: Fuse
    keep: Callable[[str], bool]
    config: QuantConfig
    threads: int | None


def has_layers_in_bodies(model: ir.Model) -> bool:
    """Does an If, Loop or Scan of the main graph hold layers with weights?"""
    return any(_is_control(node) for node in model.graph)


def quantize_bodies(model: ir.Model, fused: ir.Model, samples: Sequence[Feeds], fuse: Fuse, config: QuantConfig,
                    keep: Callable[[str], bool], threads: int | None = None
                    ) -> tuple[ir.Model, list[Decision]]:  # fmt: skip
    """(a copy of `model` with INT8 bodies where they run, stay near FP32 and pay, else `model` itself; decisions).

    model: what became of `fused`, a fused FP32 model; its If, Loop and Scan nodes have the same names. samples: feeds
    of `fused`. fuse: gives a body in fused form. keep(node name): stays in FP32.
    """
    work = _Work(fuse, keep, config, threads)
    made, decisions = _with_bodies(model, fused, samples, work)
    if made is model:
        return model, decisions
    problem = _problem(model, made, fused, samples, work)
    if problem:
        return model, [Decision("quantize", "undone", "bodies", f"they stay FP32: {problem}")]
    return made, decisions


def _is_control(node: ir.Node) -> bool:
    return is_standard(node, *CONTROL_FLOW) and layers_in_bodies(node) > 0


def _problem(before: ir.Model, after: ir.Model, fused: ir.Model, samples: Sequence[Feeds], work: _Work) -> str:
    """What is wrong with the model with INT8 bodies; empty if nothing."""
    names = judged_tensors(fused.graph)
    runner = FloatRunner(expand(fused), work.threads, expose=names)
    reference = [dict(zip(names, runner.run(feeds, names), strict=True)) for feeds in samples]
    bounds = bounded_tensors(fused.graph, names)
    found = wreck(after, Trial({}, samples, reference, bounds), work.threads)
    if found or work.config.keep_int8:
        return found
    first, second = Session(before, 1), Session(after, 1)
    ratio = speed_ratio(lambda: _run_all(first, samples), lambda: _run_all(second, samples), GAIN_LEAST)
    return "" if ratio.median >= GAIN_LEAST else f"with INT8 bodies the model runs {ratio.text} as fast"


def _run_all(session: Session, samples: Sequence[Feeds]) -> None:
    """All samples: which branch of an If runs, and how often a loop, differs from sample to sample."""
    for feeds in samples:
        session.run(None, feeds)


def _with_bodies(model: ir.Model, fused: ir.Model, samples: Sequence[Feeds], work: _Work
                 ) -> tuple[ir.Model, list[Decision]]:  # fmt: skip
    nodes = {node.name: node for node in model.graph}
    decisions: list[Decision] = []
    copy: ir.Model | None = None
    for node in fused.graph:
        if not _is_control(node) or node.name not in nodes or work.keep(node.name or ""):
            continue
        try:
            bodies, found = _int8_bodies(fused, node, samples, work)
            decisions += found
            if bodies:
                copy = copy or copied(model)
                _put_back(copy, node.name or "", bodies)
        except Exception as error:  # the bodies stay as they are
            reason = f"{type(error).__name__}: {first_line(error)}"
            return model, [Decision("quantize", "kept", node.name or "", f"bodies stay FP32: {reason}")]
    if copy is None:
        return model, decisions
    attach_functions(copy)
    unmark_prepared(copy)
    return copy, decisions


def _int8_bodies(fused: ir.Model, node: ir.Node, samples: Sequence[Feeds], work: _Work
                 ) -> tuple[dict[str, ir.Model], list[Decision]]:  # fmt: skip
    """The bodies of a node that can be INT8, as models, by attribute name."""
    feeds = _body_feeds(fused, node, samples, work.threads)
    found, decisions = {}, []
    for key, body in bodies_of(node).items():
        name = f"{node.name}/{key}"
        if not feeds[key]:
            decisions.append(Decision("quantize", "kept", name, "the body stays FP32: no sample ran it"))
            continue
        made, reason = _int8_body(_typed(body_model(fused, body), feeds[key][0]), _spread(feeds[key]), work)
        if made is None:
            decisions.append(Decision("quantize", "kept", name, f"the body stays FP32: {reason}"))
        else:
            found[key] = made
            decisions.append(Decision("quantize", "calibrated", name, f"the body, on {len(feeds[key])} runs of it"))
    return found, decisions


def _int8_body(body: ir.Model, feeds: Sequence[Feeds], work: _Work) -> tuple[ir.Model | None, str]:
    """(a body as an INT8 model, or None; why not)."""
    fused = work.fuse(body)
    selection = select(fused, work.keep)
    reason = "no layer with constant weights in it"
    made = expand(fused)
    if selection.forms:
        trial = run_trial(fused, selection, feeds, work.config, work.threads)
        reason = trial.verdict if trial.keep else ""
        selection = select(fused, lambda name: work.keep(name) or name in trial.keep)
        if selection.forms:
            made = _calibrated(fused, selection, feeds, work)
            problem = wreck(made, trial, work.threads)
            made, reason = (expand(fused), problem) if problem else (made, "")
    inner, _ = _with_bodies(made, fused, feeds, work)
    if inner is not made:
        return inner, ""
    return (made, "") if not reason else (None, reason)


def _calibrated(fused: ir.Model, selection: Selection, feeds: Sequence[Feeds], work: _Work) -> ir.Model:
    """The body with `selection` in u8, by the ranges of `feeds`, which is left alone otherwise."""
    names = {node.name for node in selection.forms}
    copy = copied(fused)
    chosen = select(copy, lambda name: name not in names)
    batches = [Batch(dict(one), None, [f"run {i}"], 1) for i, one in enumerate(feeds)]
    statistics = observe(expand(fused), observed_tensors(copy, chosen), batches, channels=weighted_inputs(chosen),
                         threads=work.threads)  # fmt: skip
    method = work.config.method if work.config.method in METHODS else DEFAULT_METHOD
    ranges = table_ranges(copy, chosen, statistics, method, work.config)
    params = {group: params_from_range(span) for group, span in chosen.group_ranges(ranges).items()}
    apply(copy, chosen, params, all_weights(chosen, params, work.config, statistics))
    return copy


def _body_feeds(fused: ir.Model, node: ir.Node, samples: Sequence[Feeds], threads: int | None
                ) -> dict[str, list[Feeds]]:  # fmt: skip
    """What each body of a node is fed with when the float model runs on the samples. Raises TimeoutError."""
    recorded: dict[str, list[Feeds]] = {key: [] for key in bodies_of(node)}
    deadline = Deadline(BODY_SECONDS)

    def open_body(key: str, body: ir.Model) -> RunBody:
        runners: list[FloatRunner] = []  # opened at the first run, which tells the types of the inputs

        def run(feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
            if not runners:
                runners.append(FloatRunner(expand(_typed(body, feeds)), threads))
            if deadline.is_over:
                raise TimeoutError(f"its rounds on the samples take more than {BODY_SECONDS:g} s")
            if _bytes(recorded[key]) < RECORDED_MOST:
                recorded[key].append(feeds)
            return runners[0].run(feeds)

        return run

    step = ControlStep(fused, node, open_body)
    for values in _values(fused, node, samples, threads):
        step.run(values, None)
    return recorded


def _values(fused: ir.Model, node: ir.Node, samples: Sequence[Feeds], threads: int | None
            ) -> Iterator[dict[str, np.ndarray]]:  # fmt: skip
    """What the node and its bodies read, for each sample."""
    reads = dict.fromkeys(v for v in (*node.inputs, *captured(node)) if v is not None and v.const_value is None)
    computed = [v.name or "" for v in reads if v.producer() is not None]
    runner = FloatRunner(expand(fused), threads, expose=computed) if computed else None
    for feeds in samples:
        made = runner.run(feeds, computed) if runner is not None else []
        yield {**feeds, **dict(zip(computed, made, strict=True))}


def _typed(body: ir.Model, feeds: Feeds) -> ir.Model:
    """`body` with the types of `feeds` where its inputs state none; a shape only as far as the rank goes."""
    for value in body.graph.inputs:
        array = feeds[value.name or ""]
        if not isinstance(array, np.ndarray):
            raise TypeError(f"{value.name!r} is no tensor")
        value.dtype = value.dtype or ir.DataType.from_numpy(array.dtype)
        if value.shape is None:
            value.shape = ir.Shape([None] * array.ndim)
    return body


def _spread(feeds: list[Feeds]) -> list[Feeds]:
    if len(feeds) <= FEEDS_MOST:
        return feeds
    return [feeds[i] for i in np.linspace(0, len(feeds) - 1, FEEDS_MOST).round().astype(int)]


def _bytes(feeds: list[Feeds]) -> int:
    return len(feeds) * sum(array.nbytes for array in feeds[0].values()) if feeds else 0


def _put_back(model: ir.Model, name: str, bodies: Mapping[str, ir.Model]) -> None:
    """The INT8 bodies instead of those of the node `name`; what they read from outside is joined to it by name."""
    node = next(node for node in model.graph if node.name == name)
    outer = {v.name: v for n in model.graph for v in n.outputs} | {v.name: v for v in model.graph.inputs}
    taken = {*outer, *model.graph.initializers}
    for key, body in bodies.items():
        old, graph = bodies_of(node)[key], body.graph
        formal = len(old.inputs)
        outside, inputs = list(graph.inputs)[formal:], list(graph.inputs)[:formal]
        graph.inputs[:] = inputs
        for value in outside:
            ir.convenience.replace_all_uses_with(value, outer[value.name])
        _rename_taken(graph, taken, f"{name}/{key}")
        for old_output, output in zip(old.outputs, graph.outputs, strict=True):
            output.type = output.type or old_output.type
        taken |= {v.name for n in graph for v in n.outputs} | set(graph.initializers)
        node.attributes[key] = ir.AttrGraph(key, graph)
        graph.name = old.name or key
        model.functions.update(body.functions)


def _rename_taken(graph: ir.Graph, taken: set[str | None], prefix: str) -> None:
    """Gives values of a body another name where the graph around it, or a body before it, has one of that name."""
    for node in graph:
        for value in node.outputs:
            if value.name in taken:
                value.name = f"{prefix}/{value.name}"
    for value in list(graph.initializers.values()):
        if value.name in taken:
            del graph.initializers[value.name or ""]
            value.name = f"{prefix}/{value.name}"
            graph.register_initializer(value)
