"""One profiled run of each model as a trace for Perfetto (ui.perfetto.dev) or chrome://tracing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

THREAD = 1


def chrome_trace(layers: Sequence[Mapping[str, Any]], machine: Mapping[str, Any]) -> dict[str, Any]:
    """The layers of `bench` in the Trace Event Format (JSON object form), one process a model, times in microseconds.

    layers: {"model", "name", "op", "kernel", "us", "gmacs_per_s"} in the order in which they ran; each starts where
    the one before it ended. Source: "Trace Event Format", the Chromium project.
    """
    events: list[dict[str, Any]] = []
    processes: dict[str, int] = {}
    ends: dict[str, float] = {}
    for layer in layers:
        model = layer["model"]
        if model not in processes:
            processes[model] = len(processes) + 1
            place = {"ph": "M", "pid": processes[model], "tid": THREAD}
            events.append({"name": "process_name", **place, "args": {"name": model}})
            events.append({"name": "thread_name", **place, "args": {"name": "layers, one after the other"}})
        start = ends.get(model, 0.0)
        ends[model] = start + layer["us"]
        arguments = {key: layer[key] for key in ("op", "kernel", "gmacs_per_s") if layer[key] is not None}
        events.append(
            {
                "name": layer["name"],
                "cat": layer["op"] or "onnxruntime",
                "ph": "X",
                "ts": start,
                "dur": layer["us"],
                "pid": processes[model],
                "tid": THREAD,
                "args": arguments,
            }
        )
    return {"traceEvents": events, "displayTimeUnit": "ms", "otherData": dict(machine)}
