"""Valid models, broken in seeded ways: bytes, fields, dimensions, edges, attributes."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

ABSURD_INTS = (-(2**62), -(2**31), -7, -1, 0, 1 << 20, 2**31, 2**62)
ABSURD_FLOATS = (float("nan"), float("inf"), -1e38, 0.0, 1e38)
ABSURD_DIMS = (-5, 0, 1 << 16, 1 << 31, 1 << 40, 2**62)


def vision(seed: int = 0) -> onnx.ModelProto:
    """Convolutions, a residual, pooling, a reshape and a Gemm: input x [1, 3, 16, 16]."""
    rng = np.random.default_rng(seed)
    shapes = {"w0": (8, 3, 3, 3), "b0": (8,), "w1": (8, 8, 3, 3), "w2": (10, 8), "b2": (10,),
              "s": (8,), "t": (8,), "m": (8,), "v": (8,)}  # fmt: skip
    weights = [numpy_helper.from_array((np.abs(rng.normal(size=s)) * 0.3).astype(np.float32), n)
               for n, s in shapes.items()]  # fmt: skip
    weights.append(numpy_helper.from_array(np.array([0, -1], np.int64), "flat"))
    nodes = [
        helper.make_node("Conv", ["x", "w0", "b0"], ["c0"], "c0", pads=[1, 1, 1, 1], strides=[2, 2]),
        helper.make_node("BatchNormalization", ["c0", "s", "t", "m", "v"], ["n0"], "n0"),
        helper.make_node("Relu", ["n0"], ["r0"], "r0"),
        helper.make_node("Conv", ["r0", "w1"], ["c1"], "c1", pads=[1, 1, 1, 1], kernel_shape=[3, 3]),
        helper.make_node("Add", ["c1", "r0"], ["a1"], "a1"),
        helper.make_node("MaxPool", ["a1"], ["p1"], "p1", kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Concat", ["p1", "p1"], ["k1"], "k1", axis=2),
        helper.make_node("GlobalAveragePool", ["k1"], ["g1"], "g1"),
        helper.make_node("Reshape", ["g1", "flat"], ["f1"], "f1"),
        helper.make_node("Gemm", ["f1", "w2", "b2"], ["z"], "z", transB=1),
        helper.make_node("Softmax", ["z"], ["y"], "y", axis=-1),
    ]
    graph = helper.make_graph(
        nodes, "vision", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 16, 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 10])], weights,
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def flip_bytes(model: onnx.ModelProto, rng: random.Random) -> bytes:
    content = bytearray(model.SerializeToString())
    for _ in range(rng.choice((1, 3, 20))):
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    return bytes(content)


def flip_structure(model: onnx.ModelProto, rng: random.Random) -> bytes:
    """As flip_bytes, in the last part of the file, where no weights are."""
    content = bytearray(model.SerializeToString())
    small = onnx.ModelProto.FromString(bytes(content))
    del small.graph.initializer[:]
    tail = small.ByteSize() // 2
    content[-rng.randrange(1, tail)] ^= 1 << rng.randrange(8)
    return bytes(content)


def truncate(model: onnx.ModelProto, rng: random.Random) -> bytes:
    content = model.SerializeToString()
    return content[: rng.randrange(len(content))]


def remove_field(model: onnx.ModelProto, rng: random.Random) -> bytes:
    graph = model.graph
    node = rng.choice(graph.node)
    lists = [graph.node, graph.initializer, graph.output, graph.input, model.opset_import, node.input, node.output]
    chosen = rng.choice([entries for entries in (*lists, node.attribute) if len(entries)])
    del chosen[rng.randrange(len(chosen))]
    return model.SerializeToString()


def huge_dims(model: onnx.ModelProto, rng: random.Random) -> bytes:
    graph = model.graph
    if rng.random() < 0.5:
        tensor = rng.choice([tensor for tensor in graph.initializer if tensor.dims])
        tensor.dims[rng.randrange(len(tensor.dims))] = rng.choice(ABSURD_DIMS)
    else:
        value = rng.choice([v for v in (*graph.input, *graph.output) if v.type.tensor_type.shape.dim])
        rng.choice(value.type.tensor_type.shape.dim).dim_value = rng.choice(ABSURD_DIMS)
    return model.SerializeToString()


def cycle(model: onnx.ModelProto, rng: random.Random) -> bytes:
    nodes = model.graph.node
    late = rng.randrange(1, len(nodes))
    early = nodes[rng.randrange(late)]
    early.input[0] = nodes[late].output[0]
    return model.SerializeToString()


def attributes_of(graph: onnx.GraphProto) -> list[onnx.AttributeProto]:
    """Of all nodes, those in the bodies of If and Loop too."""
    own = [attribute for node in graph.node for attribute in node.attribute]
    return own + [inner for attribute in own if attribute.HasField("g") for inner in attributes_of(attribute.g)]


def absurd_attribute(model: onnx.ModelProto, rng: random.Random) -> bytes:
    attribute = rng.choice(attributes_of(model.graph))
    if attribute.HasField("g"):
        del attribute.g.node[rng.randrange(len(attribute.g.node))]
    elif attribute.ints:
        attribute.ints[rng.randrange(len(attribute.ints))] = rng.choice(ABSURD_INTS)
    elif attribute.type == onnx.AttributeProto.FLOAT:
        attribute.f = rng.choice(ABSURD_FLOATS)
    else:
        attribute.i = rng.choice(ABSURD_INTS)
    return model.SerializeToString()


def wrong_rank(model: onnx.ModelProto, rng: random.Random) -> bytes:
    """A list attribute of another length, or an attribute of another type."""
    attribute = rng.choice(attributes_of(model.graph))
    if attribute.ints and rng.random() < 0.7:
        attribute.ints.extend([1] * rng.choice((1, 5)))
    else:
        attribute.CopyFrom(helper.make_attribute(attribute.name, rng.choice(["nonsense", 1.5, [1.0, 2.0]])))
    return model.SerializeToString()


def rename(model: onnx.ModelProto, rng: random.Random) -> bytes:
    """Another op type, an input that nobody makes, or two outputs of one name."""
    node, other = rng.choice(model.graph.node), rng.choice(model.graph.node)
    kind = rng.randrange(3)
    if kind == 0:
        node.op_type = rng.choice(["Conv", "Loop", "Gather", "Unheard", "QConv", "", "Reshape", "If"])
    elif kind == 1 and node.input:
        node.input[rng.randrange(len(node.input))] = rng.choice(["nobody", ""])
    else:
        node.output[0] = other.output[0]
    return model.SerializeToString()


def absurd_weights(model: onnx.ModelProto, rng: random.Random) -> bytes:
    """Of a tensor in a file, where it lies there."""
    tensor = rng.choice(model.graph.initializer)
    if tensor.external_data:
        entry = rng.choice(tensor.external_data)
        entry.value = rng.choice(["../../../../etc/passwd", "", "nowhere", *map(str, ABSURD_INTS)])
        return model.SerializeToString()
    array = numpy_helper.to_array(tensor).copy()
    if array.dtype.kind in "iu":
        array[...] = np.array(rng.choice(ABSURD_INTS)).astype(array.dtype)
    else:
        array.flat[rng.randrange(array.size)] = rng.choice(ABSURD_FLOATS)
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    return model.SerializeToString()


def wrong_type(model: onnx.ModelProto, rng: random.Random) -> bytes:
    if rng.random() < 0.5:
        rng.choice(model.graph.initializer).data_type = rng.choice((0, 2, 6, 7, 10, 11, 99))
    else:
        value = rng.choice([*model.graph.input, *model.graph.output])
        value.type.tensor_type.elem_type = rng.choice((0, 2, 7, 8, 10, 11, 99))
    return model.SerializeToString()


Mutation = Callable[[onnx.ModelProto, random.Random], bytes]
MUTATIONS: tuple[Mutation, ...] = (flip_bytes, flip_structure, truncate, remove_field, huge_dims, cycle,
                                   absurd_attribute, wrong_rank, rename, absurd_weights, wrong_type)  # fmt: skip


def mutants(count: int, start: int = 0, content: bytes | None = None) -> Iterator[tuple[str, bytes]]:
    """(name, file content) of `count` mutants from number `start` of a serialized model, by default that of `vision`;
    the same every time. What a mutation has nothing to work on in, loses a field."""
    content = content if content is not None else vision().SerializeToString()
    for index in range(start, start + count):
        mutation = MUTATIONS[index % len(MUTATIONS)]
        try:
            mutant = mutation(onnx.ModelProto.FromString(content), random.Random(index))
        except (IndexError, ValueError):
            mutant = remove_field(onnx.ModelProto.FromString(content), random.Random(index))
        yield f"{mutation.__name__}-{index}", mutant
