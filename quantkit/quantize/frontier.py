"""A model run part by part over the same samples: each part goes on from what the parts before have left.

Tuning goes from layer to layer and needs tensors ever deeper inside. Run from the samples every time, n layers cost n/2
whole runs; so they cost one. What later parts read is kept in files, u8 tensors as u8: memory stays that of a batch.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import numpy as np
import onnx_ir as ir

from quantkit.fuse.graph import constant, is_standard, quantkit_name
from quantkit.load.parts import captured, submodel
from quantkit.load.prepared import is_prepared, mark_prepared
from quantkit.quantize.qparams import quantize_array
from quantkit.quantize.replay import Replay
from quantkit.quantize.runners import Run
from quantkit.types import QuantParams

KEPT_BYTES = 1 << 30
"""Files of one frontier, at most; a part that would leave more is run again by the next one: as the samples have it,
see quantkit.quantize.replay."""

OpenPart = Callable[[ir.Model, Sequence[str]], Run]
"""(a part, tensor names) -> Run; u8 tensors come dequantized to float32."""


@dataclass(frozen=True)
class _Part:
    """Nodes that run now. reads: what they take from earlier parts and from the samples; live: what they make for
    later ones; asked: what they make of what is asked for."""

    nodes: list[ir.Node]
    reads: list[ir.Value]
    live: list[ir.Value]
    asked: list[str]


class Frontier:
    """`values(names)` gives tensors of `model` for each batch of a replay. A context manager.

    model: its nodes may get other weights as long as nothing that depends on them has been asked for. open_part: runs
    parts of it; inputs that are u8 are fed as u8.
    """

    def __init__(self, model: ir.Model, replay: Replay, open_part: OpenPart) -> None:
        self._model, self._replay, self._open_part = model, replay, open_part
        self._made = {value.name or "": value for node in model.graph for value in node.outputs}
        self._done: set[ir.Node] = set()
        self._folder = tempfile.TemporaryDirectory(prefix="quantkit-frontier-")
        self._files: dict[str, list[Path]] = {}
        self._numbers = count()

    def __enter__(self) -> Frontier:
        return self

    def __exit__(self, *error: object) -> None:
        self._folder.cleanup()

    def values(self, names: Sequence[str]) -> Iterator[dict[str, np.ndarray]]:
        """The tensors `names` for each batch in turn, u8 ones dequantized to float32; nodes run once, if they can."""
        part = self._part(names)
        run = self._open(part) if part.nodes else None
        written: dict[str, list[Path]] | None = {value.name or "": [] for value in part.live}
        if not all(isinstance(value.type, ir.TensorType) for value in part.live):
            written = None
        room = (KEPT_BYTES - self._kept_bytes()) // max(len(self._replay), 1)
        for batch, (feeds, _) in enumerate(self._replay):
            found = {name: self._float(name, batch) for name in names if name not in part.asked}
            if run is not None:
                made = run({v.name or "": self._fed(v.name or "", feeds, batch) for v in part.reads})
                found |= {name: made[name] for name in part.asked}
                written = self._written(written, made, room)
            yield found
        if run is not None:
            self._move_on(part, written)

    def _part(self, names: Sequence[str]) -> _Part:
        asked = [name for name in names if name not in self._files]
        if any(self._made[name].producer() in self._done for name in asked):  # removed: from the samples once more
            self._done.clear()
            _remove(self._files)
            self._files, asked = {}, list(names)
        needed: set[ir.Node] = set()
        waiting = [self._made[name].producer() for name in asked]
        while waiting:
            node = waiting.pop()
            if node is not None and node not in needed and node not in self._done:
                needed.add(node)
                waiting += [value.producer() for value in _reads(node)]
        nodes = [node for node in self._model.graph if node in needed]
        reads = dict.fromkeys(
            v for node in nodes for v in _reads(node) if v.const_value is None and v.producer() not in needed
        )
        live = [
            v for node in nodes for v in node.outputs
            if any(user not in needed and user not in self._done for user in v.consumers())
        ]  # fmt: skip
        return _Part(nodes, list(reads), live, asked)

    def _open(self, part: _Part) -> Run:
        names = list(dict.fromkeys([*part.asked, *(value.name or "" for value in part.live)]))
        model = submodel(self._model, part.nodes, part.reads, [self._made[name] for name in names])
        for value in model.graph.inputs:
            value.shape = None  # arrays have their shapes; what the file declares of inner ones may be wrong
        if is_prepared(self._model):
            mark_prepared(model)
        return self._open_part(model, names)

    def _float(self, name: str, batch: int) -> np.ndarray:
        stored, params = np.load(self._files[name][batch]), _params(self._made[name])
        if params is None:
            return stored
        return (stored.astype(np.float32) - np.float32(params.zero_point)) * np.float32(params.scale)

    def _fed(self, name: str, feeds: Mapping[str, np.ndarray], batch: int) -> np.ndarray:
        return np.load(self._files[name][batch]) if name in self._files else feeds[name]

    def _written(self, written: dict[str, list[Path]] | None, made: Mapping[str, np.ndarray], room: int
                 ) -> dict[str, list[Path]] | None:  # fmt: skip
        """`written` with the files of one batch more; None, and no files, where they take more bytes than `room` or
        cannot be fed again (no elements)."""
        if written is None:
            return None
        stored = {name: _stored(made[name], self._made[name]) for name in written}
        if not all(array.size for array in stored.values()) or sum(a.nbytes for a in stored.values()) > room:
            _remove(written)
            return None
        for name, array in stored.items():
            path = Path(self._folder.name) / f"{next(self._numbers)}.npy"
            np.save(path, array)
            written[name].append(path)
        return written

    def _kept_bytes(self) -> int:
        return sum(path.stat().st_size for paths in self._files.values() for path in paths)

    def _move_on(self, part: _Part, written: dict[str, list[Path]] | None) -> None:
        """The part is done: what only it has read is not needed any more."""
        if written is None:
            return
        self._done.update(part.nodes)
        self._files.update(written)
        over = [name for name in self._files if self._done.issuperset(self._made[name].consumers())]
        _remove({name: self._files.pop(name) for name in over})


def _reads(node: ir.Node) -> list[ir.Value]:
    """The node's inputs, and what its bodies read from outside."""
    return [*(value for value in node.inputs if value is not None), *captured(node)]


def _params(value: ir.Value) -> QuantParams | None:
    """Scale and zero point of a u8 tensor of a calibrated model: the last inputs of the node that makes it."""
    node = value.producer()
    if value.dtype != ir.DataType.UINT8 or node is None:
        return None
    if quantkit_name(node) is None and not is_standard(node, "QuantizeLinear"):
        return None
    scale, zero_point = (constant(given) for given in node.inputs[-2:])
    assert scale is not None
    assert zero_point is not None
    return QuantParams(float(scale.item()), int(zero_point.item()))


def _stored(array: np.ndarray, value: ir.Value) -> np.ndarray:
    """u8 tensors as u8 again; dequantized, they are multiples of the scale."""
    params = _params(value)
    return array if params is None or array.dtype == np.uint8 else quantize_array(array, params)


def _remove(files: Mapping[str, list[Path]]) -> None:
    for paths in files.values():
        for path in paths:
            path.unlink()
