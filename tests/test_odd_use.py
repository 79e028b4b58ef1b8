"""What users give by mistake or out of habit: it works, or one sentence says what is wrong."""

from __future__ import annotations

import functools

import numpy as np
import onnx_ir as ir
import pytest

import quantkit
from quantkit import QuantkitError, Session
from quantkit.errors import DataError, ModelError, UsageError
from quantkit.types import QuantConfig
from tests.e2e import odd_models
from tests.graphs import image, model

FAST = QuantConfig(method="minmax", effort="fast", keep_int8=True)
X = image(1, 3, 8, 8)


@functools.cache
def network():
    """A convolution with an open batch."""
    return model("y = Conv<kernel_shape = [3, 3], pads = [1, 1, 1, 1]>(x, w)", {"w": (8, 3, 3, 3)},
                 outputs="float[N,8,8,8] y")  # fmt: skip


def quantized(data, source=None, **options):
    return quantkit.quantize(network() if source is None else source, data, config=FAST, **options)


def samples():
    yield from ({"x": X}, {"x": 0.5 * X})


class Reader:
    """A CalibrationDataReader."""

    def __init__(self) -> None:
        self.left = list(samples())

    def get_next(self):
        return self.left.pop() if self.left else None


@pytest.mark.parametrize(
    "data",
    [samples, lambda: list(samples()), lambda: X, Reader, Reader(), samples(), lambda: Reader(), [X[0]], {"x": X}],
    ids=["generator function", "function of a list", "function of an array", "class of a reader", "reader", "generator",
         "function of a reader", "arrays", "dict"],
)  # fmt: skip
def test_data_come_as_functions_classes_generators_readers_and_plain_objects(data):
    result = quantized(data)
    assert result.kind == "calibrated"
    assert Session(result.model).run(None, {"x": X})[0].shape == (1, 8, 8, 8)


def test_a_generator_function_is_read_again_where_one_reading_is_not_enough():
    calls = []

    def counted():
        calls.append(1)
        yield from samples()

    quantized(counted, samples=2)
    assert len(calls) > 1


def failing():
    yield {"x": X}
    raise RuntimeError("the camera is off")


class Broken:
    def get_next(self):
        raise RuntimeError("the camera is off")


def unwilling():
    raise RuntimeError("the camera is off")


@pytest.mark.parametrize("data", [failing, failing(), Broken(), Broken, unwilling])
def test_an_error_in_the_code_that_gives_data_is_told_as_such(data):
    with pytest.raises(DataError, match="RuntimeError: the camera is off"):
        quantized(data)


def test_a_class_that_needs_arguments_is_named():
    with pytest.raises(DataError, match="calling Needy failed"):
        quantized(type("Needy", (), {"__init__": lambda self, path: None}))


@pytest.mark.parametrize("source", [None, 5, object()])
def test_what_is_no_model_is_refused_by_its_type(source):
    for use in (lambda: quantized([X], source if source is not None else [None]), lambda: Session(source)):
        with pytest.raises(ModelError, match="is no model; give a path, serialized bytes"):
            use()


@pytest.mark.parametrize("form", [lambda m: m.SerializeToString(), lambda m: m, ir.from_proto])
def test_models_come_as_bytes_protos_and_onnx_ir_models(form):
    assert quantized(samples, form(network())).kind == "calibrated"
    assert quantkit.convert(form(network())).kind == "converted"


def test_a_misspelt_option_is_refused_with_those_there_are():
    with pytest.raises(UsageError, match=r"quantize has no option 'sample'; it has config, partial, .*samples"):
        quantized([X], sample=3)
    with pytest.raises(UsageError, match="convert has no option 'config'; it has keep_fp32, progress"):
        quantkit.convert(network(), config=FAST)


def test_one_expression_of_names_to_keep_is_taken_as_one():
    name = network().graph.node[0].name or "Conv"
    kept = quantkit.convert(network(), keep_fp32=name)
    assert not any(node.domain == "quantkit" for node in kept.model.graph)


ODD, ODD_FEEDS = odd_models.several_inputs_and_outputs()
WRONG = {
    "None": (None, "NoneType is no feed"),
    "a list": ([X], "list is no feed; give a dict"),
    "nothing": ({}, "'x' is missing"),
    "another name": ({**ODD_FEEDS, "z": X}, "'z' is unknown"),
    "int for bool": ({**ODD_FEEDS, "b": np.array([1])}, "'b' is int64, the model wants bool"),
    "None for an array": ({**ODD_FEEDS, "b": None}, "'b' is object, the model wants bool"),
    "double": ({**ODD_FEEDS, "x": ODD_FEEDS["x"].astype(np.float64)}, "'x' is float64"),
    "no batch": ({**ODD_FEEDS, "x": ODD_FEEDS["x"][0]}, r"'x' has shape \[3, 16, 16\]"),
    "an empty batch": ({**ODD_FEEDS, "x": ODD_FEEDS["x"][:0]}, r"'x' has shape \[0, 3, 16, 16\]"),
    "a row beyond the table": ({**ODD_FEEDS, "i": np.array([1, 5, 99, 0])}, "cannot run the model on"),
}


@functools.cache
def opened(quantize):
    return Session(quantized([ODD_FEEDS], ODD).model if quantize else ODD, threads=1)


@pytest.mark.parametrize("quantize", [False, True], ids=["FP32", "INT8"])
@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_feed_gives_one_sentence(case, quantize):
    feeds, message = WRONG[case]
    with pytest.raises(DataError, match=message) as caught:
        opened(quantize).run(None, feeds)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("wrong", [np.array([1]), np.array([b"a"]), np.array([["a"]]), np.array(["a"] * 2)])
def test_strings_are_checked_like_numbers(wrong):
    proto, feeds = odd_models.string_input()
    session = Session(proto)
    for right in (np.array(["abc"]), ["abc"], np.array(["abc"], object)):
        assert session.run(["t"], {**feeds, "s": right})[0].tolist() == ["abc"]
    with pytest.raises(DataError, match=r"'s' (is .* wants strings|has shape)"):
        session.run(None, {**feeds, "s": wrong})


def test_a_name_of_an_output_is_no_list_of_them():
    with pytest.raises(UsageError, match=r"give \['y'\], or None for all"):
        Session(network()).run("y", {"x": X})


@pytest.mark.parametrize("threads", ["two", 0, 1.5])
def test_threads_are_a_number_of_them(threads):
    with pytest.raises(QuantkitError, match="is not a number in"):
        Session(network(), threads=threads)
