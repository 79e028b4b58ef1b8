"""From statistics to a calibrated model: ranges by a method, parameters, weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
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
from quantkit.quantize.qparams import QuantizedWeights, params_from_range, quantize_weights
from quantkit.quantize.select import Selection
from quantkit.types import Decision, QuantConfig, QuantParams, Range

PREPROCESS_KEY, METHOD_KEY = "quantkit.preprocess", "quantkit.method"
DATA_KEY, SAMPLES_KEY = "quantkit.calibration.sha256", "quantkit.calibration.samples"
DEFAULT_METHOD = "mse"


def observed_tensors(model: ir.Model, selection: Selection) -> list[str]:
    """The tensors whose ranges the data decide: all of the selection but constants."""
    constants = {name for name, value in model.graph.initializers.items() if value.const_value is not None}
    return [name for name in selection.tensors if name not in constants]


def calibrate_fused(model: ir.Model, selection: Selection, data: Any, config: QuantConfig, *, preprocess: Any = None,
                    labels: Any = None, samples: int | None = None, batch_size: int | None = None, strict: bool = False,
                    threads: int | None = None, table_in: Any = None, table_out: Any = None, progress: Any = None,
                    warn: Callable[[str], None] | None = None, backend: Any = None) -> list[Decision]:  # fmt: skip
    """Observes a fused FP32 model on `data` and rewrites it in place into the calibrated form."""
    from quantkit.load import input_specs

    recipe = load_preprocess(preprocess) if isinstance(preprocess, str | Path) else preprocess
    dataset = open_data(data, input_specs(model), preprocess=recipe, labels=labels, samples=samples,
                        batch_size=batch_size, seed=config.seed, strict=strict, warn=warn)  # fmt: skip
    table = _table(model, selection, dataset, recipe, config, table_in, threads, progress, backend)
    method = config.method or DEFAULT_METHOD
    ranges = table_ranges(model, selection, table.statistics, method, config)
    params = {group: params_from_range(span) for group, span in selection.group_ranges(ranges).items()}
    if table_out is not None:
        table.fill(config)
        table.save(table_out)
    apply(model, selection, params, all_weights(selection, params, config))
    model.metadata_props.update({METHOD_KEY: method, DATA_KEY: table.data_sha256, SAMPLES_KEY: str(table.samples)})
    if dataset.preprocess is not None:
        model.metadata_props[PREPROCESS_KEY] = dataset.preprocess.to_json()
    return [Decision("quantize", "calibrated", "model", f"{table.samples} samples, ranges by {method}")]


def _table(model: ir.Model, selection: Selection, dataset: Dataset, recipe: Preprocess | None, config: QuantConfig,
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
        return table
    if backend is None:
        from quantkit.observe import NumpyBackend

        backend = NumpyBackend()
    statistics = observe(expand(model), tensors, dataset, backend=backend, threads=threads, progress=progress)
    count = dataset.count or 0
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
