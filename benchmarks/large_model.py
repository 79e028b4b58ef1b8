"""Makes a model with gigabytes of external weights and measures the memory of its conversion.

    python benchmarks/large_model.py FOLDER [--gigabytes 3] [--command convert|quantize]

Prints one JSON line: bytes of FP32 and INT8 files, peak resident memory in all and above the interpreter with its
libraries loaded.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

WIDTH = 8192
"""One layer is a [8192, 8192] MatMul: 256 MiB of float32."""
LAYER_BYTES = WIDTH * WIDTH * 4
SPREAD = np.float32((2.0 / WIDTH) ** 0.5)
"""He et al. 2015: keeps the activations' size through ReLU layers."""


def write_model(path: Path, layers: int) -> None:
    """MatMul + Relu chains; weights seeded, written one layer at a time into one file beside `path`."""
    rng = np.random.default_rng(0)
    initializers, nodes, last = [], [], "x"
    with path.with_suffix(".data").open("wb") as stream:
        for i in range(layers):
            for _ in range(8):
                stream.write((rng.standard_normal((WIDTH // 8, WIDTH), np.float32) * SPREAD).tobytes())
            tensor = TensorProto(name=f"w{i}", data_type=TensorProto.FLOAT, dims=[WIDTH, WIDTH],
                                 data_location=TensorProto.EXTERNAL)  # fmt: skip
            place = {"location": path.with_suffix(".data").name, "offset": i * LAYER_BYTES, "length": LAYER_BYTES}
            for key, value in place.items():
                tensor.external_data.add(key=key, value=str(value))
            initializers.append(tensor)
            nodes += [helper.make_node("MatMul", [last, f"w{i}"], [f"m{i}"], f"matmul{i}"),
                      helper.make_node("Relu", [f"m{i}"], [f"r{i}"], f"relu{i}")]  # fmt: skip
            last = f"r{i}"
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, WIDTH]) for name in ("x", last))
    graph = helper.make_graph(nodes, "large", [x], [y], initializers)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


CHILD = """
import json, resource, sys
import numpy as np, onnx, onnx_ir, onnxruntime
from quantkit import pipeline
from quantkit.cli import main
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
before = peak()
code = main(sys.argv[1:])
print(json.dumps({"exit": code, "before": before, "peak": peak()}))
"""


def measure(command: str, model: Path, output: Path) -> dict[str, int]:
    """Runs the command in a process of its own. Returns exit code and peak resident bytes, before and after."""
    arguments = [command, str(model), "-o", str(output), "--force", "--quiet"]
    if command == "quantize":
        sample = model.with_suffix(".npy")
        np.save(sample, np.random.default_rng(1).normal(size=(2, WIDTH)).astype(np.float32))
        arguments += ["--data", str(sample), "--method", "minmax", "--effort", "fast"]
    done = subprocess.run([sys.executable, "-c", CHILD, *arguments], capture_output=True, text=True, check=False)
    if not done.stdout.strip():
        raise SystemExit(done.stderr)
    return json.loads(done.stdout.strip().splitlines()[-1]) | {"stderr": done.stderr[-300:]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--gigabytes", type=float, default=3.0)
    parser.add_argument("--command", choices=("convert", "quantize"), default="convert")
    options = parser.parse_args()
    model, output = options.folder / "large.onnx", options.folder / "large.out.onnx"
    write_model(model, max(1, round(options.gigabytes * 1e9 / LAYER_BYTES)))
    found = measure(options.command, model, output)
    size = model.with_suffix(".data").stat().st_size
    written = sum(file.stat().st_size for file in options.folder.glob("large.out*"))
    above = found["peak"] - found["before"]
    print(json.dumps({"fp32_bytes": size, "int8_bytes": written, "above_interpreter_bytes": above, **found}))


if __name__ == "__main__":
    main()
