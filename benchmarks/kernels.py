"""Times conv kernels alone: every conv of ResNet-50 and MobileNet-v2 at 224 x 224, for each ISA, in GMAC/s.

python -m benchmarks.kernels --isa avx2 --threads 1 --net resnet50
"""

from __future__ import annotations

import argparse
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from quantkit.execute._engine import ffi, lib

from quantkit.execute.binding import GUARD


@dataclass(frozen=True)
class Conv:
    """A square conv with half padding, and how often the net has it."""

    count: int
    size: int
    in_c: int
    out_c: int
    kernel: int
    stride: int = 1
    groups: int = 1
    residual: bool = False

    @property
    def out_size(self) -> int:
        return (self.size - 1) // self.stride + 1

    def macs(self, batch: int) -> int:
        return batch * self.out_size**2 * self.out_c * self.in_c // self.groups * self.kernel**2


RESNET50 = [
    Conv(1, 224, 3, 64, 7, 2),
    Conv(1, 56, 64, 64, 1),
    Conv(3, 56, 64, 64, 3),
    Conv(3, 56, 64, 256, 1, residual=True),
    Conv(1, 56, 64, 256, 1),
    Conv(2, 56, 256, 64, 1),
    Conv(1, 56, 256, 128, 1),
    Conv(1, 56, 128, 128, 3, 2),
    Conv(1, 56, 256, 512, 1, 2),
    Conv(4, 28, 128, 512, 1, residual=True),
    Conv(3, 28, 512, 128, 1),
    Conv(3, 28, 128, 128, 3),
    Conv(1, 28, 512, 256, 1),
    Conv(1, 28, 256, 256, 3, 2),
    Conv(1, 28, 512, 1024, 1, 2),
    Conv(6, 14, 256, 1024, 1, residual=True),
    Conv(5, 14, 1024, 256, 1),
    Conv(5, 14, 256, 256, 3),
    Conv(1, 14, 1024, 512, 1),
    Conv(1, 14, 512, 512, 3, 2),
    Conv(1, 14, 1024, 2048, 1, 2),
    Conv(3, 7, 512, 2048, 1, residual=True),
    Conv(2, 7, 2048, 512, 1),
    Conv(2, 7, 512, 512, 3),
    Conv(1, 1, 2048, 1000, 1),
]


def inverted_residual(count: int, size: int, narrow: int, wide: int, out_c: int, stride: int) -> list[Conv]:
    """Expansion, depthwise and projection of MobileNet-v2."""
    after = (size - 1) // stride + 1
    return [
        Conv(count, size, narrow, wide, 1),
        Conv(count, size, wide, wide, 3, stride, groups=wide),
        Conv(count, after, wide, out_c, 1, residual=narrow == out_c and stride == 1),
    ]


MOBILENET_V2 = [
    Conv(1, 224, 3, 32, 3, 2),
    Conv(1, 112, 32, 32, 3, groups=32),
    Conv(1, 112, 32, 16, 1),
    *inverted_residual(1, 112, 16, 96, 24, 2),
    *inverted_residual(1, 56, 24, 144, 24, 1),
    *inverted_residual(1, 56, 24, 144, 32, 2),
    *inverted_residual(2, 28, 32, 192, 32, 1),
    *inverted_residual(1, 28, 32, 192, 64, 2),
    *inverted_residual(3, 14, 64, 384, 64, 1),
    *inverted_residual(1, 14, 64, 384, 96, 1),
    *inverted_residual(2, 14, 96, 576, 96, 1),
    *inverted_residual(1, 14, 96, 576, 160, 2),
    *inverted_residual(2, 7, 160, 960, 160, 1),
    *inverted_residual(1, 7, 160, 960, 320, 1),
    Conv(1, 7, 320, 1280, 1),
    Conv(1, 1, 1280, 1000, 1),
]
NETS = {"resnet50": RESNET50, "mobilenet_v2": MOBILENET_V2}


def aligned(count: int) -> np.ndarray[Any, Any]:
    raw = np.zeros(count + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + count]


def conv_params(conv: Conv, batch: int) -> Any:
    """qk_conv_params of it, weights not yet packed."""
    params = ffi.new("qk_conv_params *")
    sizes = {"batch": batch, "in_h": conv.size, "in_w": conv.size, "in_c": conv.in_c, "in_pitch": conv.in_c}
    sizes |= {"out_h": conv.out_size, "out_w": conv.out_size, "out_c": conv.out_c, "out_pitch": conv.out_c}
    sizes |= {"kernel_h": conv.kernel, "kernel_w": conv.kernel, "stride_h": conv.stride, "stride_w": conv.stride}
    sizes |= {"dilation_h": 1, "dilation_w": 1, "pad_top": conv.kernel // 2, "pad_left": conv.kernel // 2}
    for name, value in (sizes | {"groups": conv.groups, "residual_pitch": conv.out_c, "in_zero_point": 128}).items():
        setattr(params, name, value)
    params.epilogue.high, params.epilogue.zero_point, params.epilogue.residual_multiplier = 255, 128, 0.5
    return params


def quantized_normal(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    """int8 weights [out_c, ...] as quantization leaves them: normal, the largest of each output channel 127. What
    kernel AVX2 takes depends on them."""
    weights = rng.normal(size=(shape[0], int(np.prod(shape[1:]))))
    weights *= 127 / np.abs(weights).max(axis=1, keepdims=True)
    return np.rint(weights).astype(np.int8).reshape(shape)


class Timer:
    """One conv with random operands, ready to run at an ISA."""

    def __init__(self, conv: Conv, isa: int, batch: int) -> None:
        rng = np.random.default_rng(0)
        self.isa = isa
        shape = (conv.out_c, conv.kernel, conv.kernel, conv.in_c // conv.groups)
        weights = quantized_normal(rng, shape)
        bias = rng.integers(-9999, 9999, conv.out_c, dtype=np.int32)
        multiplier = np.full(conv.out_c, 0.001, np.float32)
        x = aligned(batch * conv.size**2 * conv.in_c)
        x[:] = rng.integers(0, 256, x.size, dtype=np.uint8)
        residual, out = (aligned(batch * conv.out_size**2 * conv.out_c) for _ in range(2))
        residual[:] = rng.integers(0, 256, residual.size, dtype=np.uint8)
        params = conv_params(conv, batch)
        packed = aligned(lib.qk_conv_packed_bytes(isa, params))
        void = [ffi.cast("void *", a.ctypes.data) for a in (weights, bias, multiplier, packed, x, residual, out)]
        status = lib.qk_conv_pack(isa, params, ffi.cast("int8_t *", void[0]), ffi.cast("int32_t *", void[1]),
                                  ffi.cast("float *", void[2]), void[3])  # fmt: skip
        assert status == lib.QK_OK
        params.packed = void[3]
        self.op = ffi.new("qk_op *", {"kind": lib.QK_CONV, "params": params})
        for ref, buffer in zip((*getattr(self.op, "in"), self.op.out), (0, 1 if conv.residual else -1, 2), strict=True):
            ref.buffer = buffer
        self.buffers = ffi.new("void *[]", void[4:])
        self.keep = (packed, x, residual, out, params)
        self.kernel = ffi.string(lib.qk_op_kernel_name(isa, self.op)).decode()

    def median_us(self, pool: Any, threads: int, rounds: int) -> float:
        """Median time of one run, after one run to warm up."""
        ops = ffi.new("qk_op[]", [self.op[0]] * (rounds + 1))
        each = lib.qk_op_scratch_bytes(self.isa, self.op) + GUARD
        scratch = aligned(each * threads + 64)
        times = ffi.new("int64_t[]", rounds + 1)
        failed = ffi.new("int32_t *")
        status = lib.qk_run(
            self.isa, pool, ops, rounds + 1, self.buffers, ffi.cast("void *", scratch.ctypes.data), each, times, failed
        )
        assert status == lib.QK_OK
        return float(np.median(list(times)[1:])) / 1e3


def cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--net", choices=NETS, default="resnet50")
    parser.add_argument("--isa", action="append", help="may repeat; default: all that this CPU has, but not scalar")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args()
    names = [ffi.string(lib.qk_isa_name(i)).decode() for i in range(lib.QK_ISA_COUNT)]
    usable = [i for i in range(lib.QK_ISA_COUNT) if lib.qk_isa_available(i)]
    isas = [i for i in usable if (names[i] in args.isa if args.isa else i != lib.QK_SCALAR)]
    print(f"{cpu_name()}; threads {args.threads}, batch {args.batch}; {args.net}: us (GMAC/s) of one conv, median")
    pool = lib.qk_pool_create(args.threads)
    total = dict.fromkeys(isas, 0.0)
    for conv in NETS[args.net]:
        cells = []
        for isa in isas:
            timer = Timer(conv, isa, args.batch)
            us = timer.median_us(pool, args.threads, args.rounds)
            total[isa] += us * conv.count
            cells.append(f"{timer.kernel:>26} {us:8.1f} ({conv.macs(args.batch) / us / 1e3:6.1f})")
        dw = "dw" if conv.groups > 1 else "  "
        print(f"{conv.count} x {conv.size:3} {conv.in_c:4} -> {conv.out_c:4} k{conv.kernel}s{conv.stride}{dw}", *cells)
    lib.qk_pool_destroy(pool)
    macs = sum(c.macs(args.batch) * c.count for c in NETS[args.net])
    for isa in isas:
        print(f"{names[isa]:>10}: {total[isa] / 1e3:8.2f} ms, {macs / total[isa] / 1e3:6.1f} GMAC/s")


if __name__ == "__main__":
    main()
