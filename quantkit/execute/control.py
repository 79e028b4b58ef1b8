"""If, Loop and Scan whose bodies are INT8: the control flow runs here, each body as a session of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from quantkit.fuse.graph import bodies_of
from quantkit.load.parts import body_model

Arrays = Mapping[str, np.ndarray]
RunBody = Callable[[dict[str, np.ndarray]], Sequence[np.ndarray]]
"""Feeds of a body by name -> its outputs in order."""
OpenBody = Callable[[str, ir.Model], RunBody]
"""(attribute name, the body as a model) -> how to run it."""


@dataclass(frozen=True)
class _Body:
    """formal: the names of its inputs. captured: names of values from outside. empty: a scan output of no iteration."""

    run: RunBody
    formal: list[str]
    captured: list[str]
    one_dimensional: list[bool]
    empty: list[np.ndarray]

    def __call__(self, given: Sequence[np.ndarray], values: Arrays) -> Sequence[np.ndarray]:
        feeds = {name: values[name] for name in self.captured}
        return self.run(feeds | dict(zip(self.formal, given, strict=True)))


class ControlStep:
    """A step of a session: one If, Loop or Scan. `run` is that of the other steps.

    open_body: how a body becomes something that runs.
    Source of the semantics: ONNX If-21, Loop-21 and Scan-21.
    """

    def __init__(self, model: ir.Model, node: ir.Node, open_body: OpenBody) -> None:
        self._name, self._op = node.name or "", node.op_type
        self._inputs = [None if v is None else v.name or "" for v in node.inputs]
        self._constants = {v.name or "": v.const_value.numpy() for v in node.inputs if v and v.const_value is not None}
        self._outputs = [out.name or "" for out in node.outputs]
        self._attributes = {key: a.value for key, a in node.attributes.items() if a.type == ir.AttributeType.INTS}
        self._scanned = node.attributes["num_scan_inputs"].as_int() if node.op_type == "Scan" else 0
        self._bodies = {key: _opened(model, key, body, open_body) for key, body in bodies_of(node).items()}

    def run(self, values: dict[str, np.ndarray], pool: object, nanoseconds: dict[str, int] | None = None) -> None:
        """Reads the step's inputs from `values` and adds its outputs. pool: not used, the bodies have their own."""
        known = {**self._constants, **values} if self._constants else values
        given = [None if name is None else known[name] for name in self._inputs]
        found = {"If": self._branch, "Loop": self._loop, "Scan": self._scan}[self._op](given, values)
        values.update((name, array) for name, array in zip(self._outputs, found, strict=True) if name)

    def _branch(self, given: Sequence[Any], values: Arrays) -> Sequence[np.ndarray]:
        return self._bodies["then_branch" if bool(given[0].reshape(-1)[0]) else "else_branch"]((), values)

    def _scan(self, given: Sequence[Any], values: Arrays) -> list[np.ndarray]:
        body, carried = self._bodies["body"], list(given[: len(given) - self._scanned])
        inputs = [
            np.moveaxis(array, axis, 0)[:: -1 if backward else 1]
            for array, axis, backward in zip(
                given[len(carried) :],
                self._each("scan_input_axes", self._scanned),
                self._each("scan_input_directions", self._scanned),
                strict=True,
            )
        ]
        count = len(self._outputs) - len(carried)
        scans: list[list[np.ndarray]] = [[] for _ in range(count)]
        for i in range(len(inputs[0])):
            made = body([*carried, *(np.ascontiguousarray(array[i]) for array in inputs)], values)
            carried = list(made[: len(carried)])
            for scan, array in zip(scans, made[len(carried) :], strict=True):
                scan.append(array)
        axes, directions = self._each("scan_output_axes", count), self._each("scan_output_directions", count)
        empty = body.empty[len(carried) :]
        stacked = [
            np.stack(scan[::-1] if backward else scan, axis) if scan else none
            for scan, axis, backward, none in zip(scans, axes, directions, empty, strict=True)
        ]
        return [*carried, *stacked]

    def _each(self, attribute: str, count: int) -> list[int]:
        return list(self._attributes.get(attribute) or [0] * count)

    def _loop(self, given: Sequence[Any], values: Arrays) -> list[np.ndarray]:
        body = self._bodies["body"]
        most, condition, *carried = given
        trips = None if most is None else int(most.reshape(-1)[0])
        going = True if condition is None else bool(condition.reshape(-1)[0])
        scans: list[list[np.ndarray]] = [[] for _ in range(len(self._outputs) - len(carried))]
        done = 0
        while going and (trips is None or done < trips):
            count = np.full((1,) if body.one_dimensional[0] else (), done, np.int64)
            again = np.full((1,) if body.one_dimensional[1] else (), going, np.bool_)
            going_on, *made = body([count, again, *carried], values)
            going = bool(going_on.reshape(-1)[0])
            carried = list(made[: len(carried)])
            for scan, array in zip(scans, made[len(carried) :], strict=True):
                scan.append(array)
            done += 1
        empty = body.empty[1 + len(carried) :]
        return [*carried, *(np.stack(s) if s else e for s, e in zip(scans, empty, strict=True))]


def _opened(model: ir.Model, key: str, body: ir.Graph, open_body: OpenBody) -> _Body:
    made = body_model(model, body)
    formal = [value.name or "" for value in body.inputs]
    captured = [value.name or "" for value in made.graph.inputs if value.name not in set(formal)]
    flat = [value.shape is not None and len(value.shape) == 1 for value in body.inputs]
    return _Body(open_body(key, made), formal, captured, flat, [_nothing(value) for value in body.outputs])


def _nothing(value: ir.Value) -> np.ndarray:
    """What stands for the scan output of a loop that never runs: unknown dimensions are 0, as in onnxruntime."""
    dims = [] if value.shape is None else [dim if isinstance(dim, int) else 0 for dim in value.shape]
    return np.empty((0, *dims), np.float32 if value.dtype is None else value.dtype.numpy())
