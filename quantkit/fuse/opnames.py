"""The names of quantkit's ops, as a table: every op type of domain `quantkit` and what it stands for.

An op type is LEVEL prefix + BASE + ["Add"] + [ACTIVATION] + ["Float"]:

    float     `ConvAddRelu`       the fused op in FP32, in memory only
    dynamic   `DynQConvAddRelu`   s8 weights, activations quantized at run time: the converted file
    static    `QConvAddRelu`      u8 in, u8 out: the calibrated file; `QGemmFloat` ends in float32

Of ops without weights, `AddFloat`, `QAddFloat` and `QLayerNormalizationFloat` are float32 on both sides: see
quantkit.fuse.stream.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

from quantkit.fuse.activations import ACTIVATIONS, SCALED, WIDE

DOMAIN = "quantkit"
DOMAIN_VERSION = 1

CONVOLUTIONS = ("Conv", "ConvTranspose")
WEIGHTED = (*CONVOLUTIONS, "Gemm", "MatMul")
BINARY = ("Add", "Sub", "Mul")
PRODUCTS = ("ActivationMatMul",)
"""Matrix products of two activations; `MatMul` is the one with constant weights."""
POOLS = ("MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "ReduceMean")
MOVEMENT = ("Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Slice", "Pad", "ResizeScales", "ResizeSizes",
            "ResizeLike", "DepthToSpace", "Gather")  # fmt: skip
VARIADIC = ("Concat", "Split")
NORMALIZATIONS = ("LayerNormalization", "RMSNormalization", "GroupNormalization", "LRN")
NAMED_NORMALIZATIONS = ("RMSNormalization", "GroupNormalization")
"""Those that exporters spell out because the opset has no op for them: also fused FP32 ops."""
STREAM_NORMALIZATIONS = ("LayerNormalization", "RMSNormalization")
"""Those that take float32 sums as they are."""
ALONG_AXIS = ("Softmax", "PRelu", *NORMALIZATIONS)
"""Ops that treat the runs of some axes, or the channels, each by itself."""
MAX_DEPTH = ((1 << 31) - 1) // 255**2
"""Products of two differences of bytes whose sum surely fits an int32."""
MAX_VARIADIC = 64
"""Concat and Split with more operands than this stay in FP32 (a function has a fixed number of inputs)."""

PREFIX = {"float": "", "dynamic": "DynQ", "static": "Q"}


@dataclass(frozen=True)
class OpName:
    """What an op type of domain `quantkit` stands for. count: the operands of Concat and Split, else 0."""

    base: str
    level: str = "static"
    add: bool = False
    activation: str = ""
    to_float: bool = False
    count: int = 0

    @cached_property
    def op_type(self) -> str:
        parts = (PREFIX[self.level], self.base, "Add" if self.add else "", self.activation,
                 "Float" if self.to_float else "", str(self.count or ""))  # fmt: skip
        return "".join(parts)

    @property
    def is_weighted(self) -> bool:
        return self.base in WEIGHTED

    @property
    def is_lookup(self) -> bool:
        """The activation is a 256-entry table on a requantized intermediate (the `pre` parameters)."""
        return bool(self.activation) and ACTIVATIONS[self.activation].lookup

    @property
    def is_stream(self) -> bool:
        """Its activations are float32, before it and behind it."""
        return self.to_float and not self.is_weighted

    @property
    def is_wide(self) -> bool:
        """The activation is evaluated on the sums in float32, before anything is rounded."""
        return bool(self.activation) and ACTIVATIONS[self.activation].wide

    @property
    def widened(self) -> OpName:
        """The same op with its activation on the sums, where it has weights and there is such a form."""
        wide = WIDE + self.activation
        return replace(self, activation=wide) if self.is_weighted and wide in ACTIVATIONS else self

    def at(self, level: str, *, to_float: bool = False) -> OpName:
        return replace(self, level=level, to_float=to_float)


def _all_names() -> list[OpName]:
    plain = [name for name, row in ACTIVATIONS.items() if not row.wide and not row.by_channel]
    wide = [name for name, row in ACTIVATIONS.items() if row.wide]
    activations = ("", *plain)
    names = [OpName(b, lv, add, a) for b in WEIGHTED for lv in PREFIX for add in (False, True) for a in activations]
    names += [OpName(b, "static", add, a) for b in WEIGHTED for add in (False, True) for a in wide]
    names += [OpName(b, "float", add, a) for b in WEIGHTED for add in (False, True) for a in SCALED]
    names += [OpName(b, "static", to_float=True) for b in WEIGHTED]
    names += [OpName("Add", level, to_float=True) for level in ("float", "static")]
    names += [OpName(b, to_float=True) for b in STREAM_NORMALIZATIONS]
    names += [OpName(b, "static", activation=a) for b in BINARY for a in activations]
    names += [OpName(b, "float", activation=a) for b in BINARY for a in plain]
    names += [OpName(b, lv) for b in plain for lv in ("float", "static")]
    names += [OpName(b, "float") for b in NAMED_NORMALIZATIONS]
    names += [OpName(b) for b in (*POOLS, *MOVEMENT, *ALONG_AXIS, *PRODUCTS)]
    names += [OpName(b, count=n) for b in VARIADIC for n in range(1, MAX_VARIADIC + 1)]
    return names


OP_NAMES: dict[str, OpName] = {name.op_type: name for name in _all_names()}


def parse(op_type: str) -> OpName | None:
    """The meaning of an op type of domain `quantkit`, or None if it is not one of ours."""
    return OP_NAMES.get(op_type)
