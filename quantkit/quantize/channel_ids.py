"""Which channels of a network may be scaled without changing its function.

Channels that must share a factor have one id: the operands of an Add, what goes into and comes out of a pool or a ReLU.
Id 0 stands for channels that must stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod

import numpy as np
import onnx_ir as ir

from quantkit.fuse.activations import AFFINE, SCALED
from quantkit.fuse.graph import constant, quantkit_name
from quantkit.fuse.opnames import CONVOLUTIONS, OpName

FIXED = 0
HOMOGENEOUS = ("", "Relu", "LeakyRelu")
"""Activations with f(s x) = s f(x) for s > 0. HardSwish and SiLU are none, and Clip has one bound for all channels."""
SWISHES = ("HardSwish", f"HardSwish{AFFINE}", *SCALED)
"""Activations on sums whose outputs have a scale for each channel behind them: see `scale_channels`."""
ELEMENTWISE = ("Relu", "LeakyRelu", "PRelu", "MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "Identity")
"""Standard ops with one input that keep channels where they are and obey f(s x) = s f(x)."""


@dataclass(frozen=True)
class Channels:
    """ids: int64, one for each index of the axes from `axis` on that make up the channels."""

    axis: int
    ids: np.ndarray


class ChannelIds:
    """The ids of the channels of every tensor of a fused FP32 model. tensors: value -> Channels; absent means fixed."""

    def __init__(self, model: ir.Model) -> None:
        self._parents = [FIXED]
        self.tensors: dict[ir.Value, Channels] = {}
        top = set(model.graph)
        for node in model.graph:
            self._visit(node)
        for value in list(self.tensors):
            if value.is_graph_output() or any(use.node not in top for use in value.uses()):
                self._fix(value)

    def of(self, value: ir.Value | None) -> np.ndarray | None:
        """int64 [C]: the ids of a tensor's channels; None where all are fixed."""
        channels = None if value is None else self.tensors.get(value)
        if channels is None or channels.ids.ndim != 1:
            return None
        found = self._roots(channels.ids)
        return found if found.any() else None

    def axis_of(self, value: ir.Value) -> int:
        """The axis of the channels of a tensor that has ids."""
        return self.tensors[value].axis

    @property
    def count(self) -> int:
        """Ids are below this."""
        return len(self._parents)

    def _root(self, i: int) -> int:
        parents = self._parents
        while parents[i] != i:
            parents[i] = parents[parents[i]]
            i = parents[i]
        return i

    def _roots(self, ids: np.ndarray) -> np.ndarray:
        return np.array([self._root(i) for i in ids.reshape(-1)], np.int64).reshape(ids.shape)

    def _join(self, a: np.ndarray, b: np.ndarray) -> None:
        for i, j in zip(a.reshape(-1), b.reshape(-1), strict=True):
            low, high = sorted((self._root(int(i)), self._root(int(j))))
            self._parents[high] = low

    def _fix(self, value: ir.Value | None) -> None:
        channels = None if value is None else self.tensors.get(value)
        if channels is not None:
            self._join(channels.ids, np.zeros_like(channels.ids))

    def _fresh(self, value: ir.Value, axis: int, count: int) -> None:
        start = len(self._parents)
        self._parents.extend(range(start, start + count))
        self.tensors[value] = Channels(axis, np.arange(start, start + count))

    def _visit(self, node: ir.Node) -> None:
        name = quantkit_name(node)
        rule: Callable[[ir.Node], bool] | None
        if name is not None:
            rule = self._weighted if name.is_weighted else self._binary if name.base in _SUMS else None
            known = name.activation in HOMOGENEOUS or name.is_weighted
        else:
            rule, known = self._rules().get(node.op_type), node.domain in ("", "ai.onnx")
        if rule is None or not known or not rule(node):
            for value in node.inputs:
                self._fix(value)

    def _rules(self) -> dict[str, Callable[[ir.Node], bool]]:
        return {
            **dict.fromkeys(ELEMENTWISE, self._same),
            **dict.fromkeys(_SUMS, self._binary),
            "Mul": self._product,
            "Concat": self._concat,
            "Split": self._split,
            "Resize": self._same,
            "Pad": self._pad,
            "ReduceMean": self._spatial_mean,
            "Reshape": self._reshaped,
            "Flatten": self._reshaped,
            "Squeeze": self._reshaped,
            "Transpose": self._transposed,
            "LayerNormalization": self._layer_normalization,
        }

    def _weighted(self, node: ir.Node) -> bool:
        """Inputs and outputs are free: weights take both factors."""
        name, x, out = quantkit_name(node), node.inputs[0], node.outputs[0]
        assert name is not None
        weights = constant(node.inputs[1])
        channel_axis = _channel_axis(name, out)
        if weights is None or constant(node.inputs[2]) is None or channel_axis is None:
            return False
        known = self.tensors.get(x)  # type: ignore[arg-type]
        if known is not None and (known.ids.ndim != 1 or known.axis != _channel_axis(name, x)):  # type: ignore[arg-type]
            self._fix(x)
        if name.activation in (*HOMOGENEOUS, *SWISHES):
            self._fresh(out, channel_axis, weights.shape[1 if name.base == "MatMul" else 0])
        if name.add and name.activation in HOMOGENEOUS:
            return self._link(node.inputs[3], out)
        if name.add:
            self._fix(node.inputs[3])
        return True

    def _link(self, value: ir.Value | None, out: ir.Value) -> bool:
        """Gives two tensors of one layout the same factors."""
        ours, other = self.tensors[out], None if value is None else self.tensors.get(value)
        if other is None or other.axis != ours.axis or other.ids.shape != ours.ids.shape:
            self._fix(value)
            self._fix(out)
        else:
            self._join(ours.ids, other.ids)
        return True

    def _same(self, node: ir.Node) -> bool:
        """One input, channels where they are; pools and Resize work on the axes behind axis 1."""
        known = self.tensors.get(node.inputs[0])  # type: ignore[arg-type]
        if known is None or known.ids.ndim != 1 or any(out.uses() for out in node.outputs[1:]):
            return False
        if known.axis != 1 and node.op_type not in ("Relu", "LeakyRelu", "Identity"):
            return False
        self.tensors[node.outputs[0]] = known
        return True

    def _binary(self, node: ir.Node) -> bool:
        a, b = node.inputs
        if a not in self.tensors or b not in self.tensors or not _same_rank(a, b):
            return False
        self.tensors[node.outputs[0]] = self.tensors[a]  # type: ignore[index]
        return self._link(b, node.outputs[0])

    def _product(self, node: ir.Node) -> bool:
        """x times a gate or a constant that stays as it is."""
        a, b = node.inputs
        x, gate = (a, b) if a in self.tensors else (b, a)
        if x not in self.tensors or x.shape is None or node.outputs[0].shape != x.shape:  # type: ignore[union-attr]
            return False
        self._fix(gate)
        self.tensors[node.outputs[0]] = self.tensors[x]  # type: ignore[index]
        return True

    def _concat(self, node: ir.Node) -> bool:
        parts = [self.tensors.get(value) for value in node.inputs if value is not None]
        axis, rank = node.attributes["axis"].as_int(), _rank(node.outputs[0])
        if rank is None or axis % rank != 1 or not any(parts):
            return False
        ids = []
        for part, value in zip(parts, node.inputs, strict=True):
            size = value.shape[1] if value is not None and value.shape is not None else None
            if not isinstance(size, int) or (part is not None and (part.axis != 1 or part.ids.ndim != 1)):
                return False
            ids.append(np.zeros(size, np.int64) if part is None else part.ids)
        self.tensors[node.outputs[0]] = Channels(1, np.concatenate(ids))
        return True

    def _split(self, node: ir.Node) -> bool:
        known, rank = self.tensors.get(node.inputs[0]), _rank(node.inputs[0])  # type: ignore[arg-type]
        axis = node.attributes["axis"].as_int() if "axis" in node.attributes else 0
        sizes = [out.shape[1] if out.shape is not None and len(out.shape) > 1 else None for out in node.outputs]
        if known is None or rank is None or axis % rank != 1 or known.axis != 1 or known.ids.ndim != 1:
            return False
        if not all(isinstance(size, int) for size in sizes) or sum(sizes) != len(known.ids):  # type: ignore[arg-type]
            return False
        for out, ids in zip(node.outputs, np.split(known.ids, np.cumsum(sizes)[:-1]), strict=True):  # type: ignore[arg-type]
            self.tensors[out] = Channels(1, ids)
        return True

    def _pad(self, node: ir.Node) -> bool:
        """Zeros beside the image."""
        pads, fill = constant(node.inputs[1]), node.inputs[2] if len(node.inputs) > 2 else None
        values = np.zeros(1) if fill is None else constant(fill)
        rank = _rank(node.inputs[0])  # type: ignore[arg-type]
        if pads is None or values is None or values.any() or len(node.inputs) > 3 or rank is None:
            return False
        return len(pads) == 2 * rank and pads[1] == pads[1 + rank] == 0 and self._same(node)

    def _reshaped(self, node: ir.Node) -> bool:
        """Channels stay on axis 1, or are cut into or put together from neighbouring axes that follow the batch."""
        x, out = node.inputs[0], node.outputs[0]
        known = self.tensors.get(x)  # type: ignore[arg-type]
        if known is None or known.axis != 1 or x.shape is None or out.shape is None:  # type: ignore[union-attr]
            return False
        before, after = list(x.shape), list(out.shape)  # type: ignore[union-attr]
        rest = before[1 + known.ids.ndim :]
        for last in range(2, len(after) + 1):
            sizes = [size for size in after[1:last] if isinstance(size, int)]
            fits = len(sizes) == last - 1 and prod(sizes) == known.ids.size
            if fits and (after[last:] == rest or (not after[last:] and set(rest) <= {1})):
                self.tensors[out] = Channels(1, known.ids.reshape(sizes))
                return True
        return False

    def _spatial_mean(self, node: ir.Node) -> bool:
        """A mean over axes behind the channels."""
        known = self.tensors.get(node.inputs[0])  # type: ignore[arg-type]
        rank, out = _rank(node.inputs[0]), node.outputs[0]
        axes = constant(node.inputs[1]) if len(node.inputs) > 1 else node.attributes.get_ints("axes", ())
        if known is None or known.ids.ndim != 1 or known.axis != 1 or axes is None or rank is None:
            return False
        if not len(axes) or min(int(axis) % rank for axis in axes) < 2:
            return False
        self.tensors[out] = known
        return True

    def _transposed(self, node: ir.Node) -> bool:
        known = self.tensors.get(node.inputs[0])  # type: ignore[arg-type]
        if known is None or "perm" not in node.attributes:
            return False
        perm = list(node.attributes["perm"].as_ints())
        ours = range(known.axis, known.axis + known.ids.ndim)
        places = [place for place, axis in enumerate(perm) if axis in ours]
        if places != list(range(places[0], places[0] + len(places))):
            return False
        order = [perm[place] - known.axis for place in places]
        self.tensors[node.outputs[0]] = Channels(places[0], known.ids.transpose(order))
        return True

    def _layer_normalization(self, node: ir.Node) -> bool:
        """The output is free: its scale and bias take the factors. The input is not."""
        self._fix(node.inputs[0])
        out, rank = node.outputs[0], _rank(node.outputs[0])
        axis = node.attributes.get_int("axis", -1)
        parts = [constant(value) for value in node.inputs[1:]]
        if rank is None or axis % rank != rank - 1 or any(p is None or p.ndim != 1 for p in parts):
            return False
        self._fresh(out, rank - 1, len(parts[0]))  # type: ignore[arg-type]
        return True


_SUMS = ("Add", "Sub")


def _rank(value: ir.Value | None) -> int | None:
    return None if value is None or value.shape is None else len(value.shape)


def _same_rank(a: ir.Value | None, b: ir.Value | None) -> bool:
    return _rank(a) is not None and _rank(a) == _rank(b)


def _channel_axis(name: OpName, value: ir.Value) -> int | None:
    if name.base in CONVOLUTIONS:
        return 1
    rank = _rank(value)
    return None if rank is None else rank - 1
