"""From statistics to a calibrated model: ranges by a method, parameters, weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx_ir as ir

from quantkit.errors import CalibrationError
from quantkit.fuse.expand import expand
from quantkit.fuse.graph import constant
from quantkit.observe import (
    CalibrationTable,
    Dataset,
    Preprocess,
    TensorStatistics,
    load_preprocess,
    observe,
    open_data,
    preprocess_digest,
    range_for,
)
from quantkit.quantize.apply import apply
from quantkit.quantize.layers import Layer, layer_of
from quantkit.quantize.measure import Fidelity, best_of
from quantkit.quantize.qparams import QuantizedWeights, params_from_range, quantize_weights
from quantkit.quantize.replay import Replay
from quantkit.quantize.runners import OpenInt8
from quantkit.quantize.select import Selection, select
from quantkit.quantize.tune import tune_layers
from quantkit.types import METHODS, Decision, QuantConfig, QuantParams, Range

PREPROCESS_KEY, METHOD_KEY = "quantkit.preprocess", "quantkit.method"
DATA_KEY, SAMPLES_KEY = "quantkit.calibration.sha256", "quantkit.calibration.samples"
DEFAULT_METHOD = "mse"
MEASURED_SAMPLES = 32
"""Samples on which methods are compared: their scores differ by more than the choice of samples moves them."""


def observed_tensors(model: ir.Model, selection: Selection) -> list[str]:
    """The tensors whose ranges the data decide: all of the selection but constants."""
    constants = {name for name, value in model.graph.initializers.items() if value.const_value is not None}
    return [name for name in selection.tensors if name not in constants]


def calibrate_fused(model: ir.Model, selection: Selection, data: Any, config: QuantConfig, *, preprocess: Any = None,
                    labels: Any = None, samples: int | None = None, batch_size: int | None = None, strict: bool = False,
                    threads: int | None = None, table_in: Any = None, table_out: Any = None, progress: Any = None,
                    warn: Callable[[str], None] | None = None, backend: Any = None,
                    open_int8: OpenInt8 | None = None) -> list[Decision]:  # fmt: skip
    """Observes a fused FP32 model on `data` and rewrites it in place into the calibrated form.

    open_int8 runs INT8 models; without it nothing is measured: ranges by DEFAULT_METHOD, weights rounded to nearest.
    """
    from quantkit.load import input_specs

    recipe = load_preprocess(preprocess) if isinstance(preprocess, str | Path) else preprocess
    dataset = open_data(data, input_specs(model), preprocess=recipe, labels=labels, samples=samples,
                        batch_size=batch_size, seed=config.seed, strict=strict, warn=warn)  # fmt: skip
    with Replay(dataset) as replay:
        table = _table(model, selection, dataset, replay, recipe, table_in, threads, progress, backend)
        if table_out is not None:
            table.fill(config)
            table.save(table_out)
        job = _Job(model, selection, table.statistics, config, replay, threads, progress)
        decisions = job.run(open_int8, table.samples)
    model.metadata_props.update({METHOD_KEY: job.method, DATA_KEY: table.data_sha256, SAMPLES_KEY: str(table.samples)})
    if dataset.preprocess is not None:
        model.metadata_props[PREPROCESS_KEY] = dataset.preprocess.to_json()
    return decisions


@dataclass
class _Job:
    """What the steps after the statistics work on."""

    model: ir.Model
    selection: Selection
    statistics: Mapping[str, TensorStatistics]
    config: QuantConfig
    replay: Replay
    threads: int | None
    progress: Any
    method: str = DEFAULT_METHOD

    def run(self, open_int8: OpenInt8 | None, samples: int) -> list[Decision]:
        """Method, parameters, weights; then, with the effort for it, tuning. Rewrites the model."""
        decisions = []
        self.method = self.config.method or DEFAULT_METHOD
        if self.config.method is None and open_int8 is not None:
            self.method, detail = self._measured_method(open_int8)
            decisions.append(Decision("quantize", "measured", "model", detail))
        params = self.params(self.method)
        layers = tunable_layers(self.selection)
        expanded = expand(self.model)
        apply(self.model, self.selection, params, all_weights(self.selection, params, self.config))
        decisions.append(Decision("quantize", "calibrated", "model", f"{samples} samples, ranges by {self.method}"))
        if self.config.effort != "fast" and open_int8 is not None:
            x_scales = {layer.name: params[self.selection.group_of[layer.source]].scale for layer in layers}
            decisions += tune_layers(
                self.model, expanded, layers, x_scales, self.replay, open_int8, per_channel=self.config.per_channel,
                seed=self.config.seed, threads=self.threads, progress=self.progress)  # fmt: skip
        return decisions

    def params(self, method: str) -> dict[str, QuantParams]:
        """Group name -> parameters, by a method."""
        ranges = table_ranges(self.model, self.selection, self.statistics, method, self.config)
        return {group: params_from_range(span) for group, span in self.selection.group_ranges(ranges).items()}

    def _measured_method(self, open_int8: OpenInt8) -> tuple[str, str]:
        """(method whose INT8 model is nearest to FP32 on some calibration samples, the scores in words)."""
        fidelity = Fidelity(expand(self.model), self.replay.first(MEASURED_SAMPLES), self.threads)
        scores = {}
        for method in METHODS:
            params = self.params(method)
            copy = self.model.clone()
            chosen = {node.name for node in self.selection.forms}
            selection = select(copy, lambda name: name not in chosen)  # noqa: B023
            apply(copy, selection, params, all_weights(selection, params, self.config))
            scores[method] = fidelity.sqnr(copy, open_int8)
        best = best_of(scores, METHODS)
        return best, f"ranges by {best}: " + ", ".join(f"{name} {db:.2f} dB" for name, db in scores.items())


def _table(model: ir.Model, selection: Selection, dataset: Dataset, replay: Replay, recipe: Preprocess | None,
           table_in: Any, threads: int | None, progress: Any, backend: Any) -> CalibrationTable:  # fmt: skip
    """Statistics from an earlier table, if it belongs to this model and data, or from the data."""
    from quantkit.load import SHA256_KEY

    digest = model.metadata_props.get(SHA256_KEY, "")
    tensors = observed_tensors(model, selection)
    if table_in is not None:
        table = CalibrationTable.load(table_in)
        table.require(model=digest, data=dataset.digest, preprocess=preprocess_digest(dataset.preprocess))
        missing = [name for name in tensors if name not in table.statistics]
        if missing:
            raise CalibrationError(f"{table_in} has no statistics of {missing[0]!r}; calibrate again without the table")
        replay.fill()
        return table
    if backend is None:
        from quantkit.observe import NumpyBackend

        backend = NumpyBackend()
    statistics = observe(expand(model), tensors, replay.recorded(), backend=backend, threads=threads, progress=progress)
    count = dataset.count or replay.samples
    return CalibrationTable(digest, dataset.digest, preprocess_digest(dataset.preprocess), count, statistics)


def table_ranges(model: ir.Model, selection: Selection, statistics: Mapping[str, TensorStatistics], method: str,
                 config: QuantConfig) -> dict[str, Range]:  # fmt: skip
    """The range of every tensor of the selection: by `method` from statistics, exactly for constants."""
    ranges = {}
    for name in selection.tensors:
        if name in statistics:
            ranges[name] = range_for(statistics[name], method, config)
        else:
            array = constant(model.graph.initializers[name])
            assert array is not None
            ranges[name] = Range(float(array.min()), float(array.max()))
    return ranges


def tunable_layers(selection: Selection) -> list[Layer]:
    """The weighted layers of a selection whose inputs are computed, in graph order."""
    return [
        layer_of(node, form)
        for node, form in selection.forms.items()
        if form.name.is_weighted and all(constant(value) is None for value in form.data)
    ]


def all_weights(
    selection: Selection, params: Mapping[str, QuantParams], config: QuantConfig
) -> dict[ir.Node, QuantizedWeights]:
    """The quantized weights of every weighted node of the selection."""
    found = {}
    for node, form in selection.forms.items():
        if not form.name.is_weighted:
            continue
        weights, bias = constant(node.inputs[1]), constant(node.inputs[2])
        assert weights is not None
        assert bias is not None
        x_scale = params[selection.group_of[form.data[0].name or ""]].scale
        axis = 1 if form.name.base == "MatMul" else 0
        found[node] = quantize_weights(
            weights, bias, x_scale, axis=axis, per_channel=config.per_channel, name=node.name or ""
        )
    return found
