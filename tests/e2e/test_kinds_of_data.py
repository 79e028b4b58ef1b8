"""Every kind of calibration data, from the file or object to an INT8 model that is near FP32."""

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from quantkit import Session, pipeline
from quantkit.cli import main
from quantkit.types import QuantConfig
from tests.graphs import model, run_onnxruntime, sqnr_db

FAST = QuantConfig(method="minmax", effort="fast", keep_int8=True)
SAMPLES, LENGTH = 6, 12


def tokens() -> onnx.ModelProto:
    """Token ids and their mask (int64, bool) -> scores."""
    body = """e = Gather(table, ids) h = MatMul(e, w) r = Relu(h) f = Cast<to = 1>(mask) k = Unsqueeze(f, last)
    m = Mul(r, k) p = ReduceMean<axes = [1], keepdims = 0>(m) y = Gemm<transB = 1>(p, v)"""
    return model(body, {"table": (50, 32), "w": (32, 48), "v": (5, 48), "last": np.array([2], np.int64)},
                 inputs="int64[N,T] ids, bool[N,T] mask", outputs="float[N,5] y")  # fmt: skip


def audio() -> onnx.ModelProto:
    """A waveform of any length -> frames."""
    body = "c = Conv<kernel_shape = [16], strides = [8]>(x, w, b) r = Relu(c) y = Conv<kernel_shape = [3]>(r, v)"
    return model(body, {"w": (16, 1, 16), "b": (16,), "v": (8, 16, 3)}, inputs="float[N,1,L] x",
                 outputs="float[N,8,M] y")  # fmt: skip


def token_feeds(seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {"ids": rng.integers(0, 50, (1, LENGTH)), "mask": np.arange(LENGTH)[None] < rng.integers(4, LENGTH)}


def audio_feeds(seed: int = 0) -> dict[str, np.ndarray]:
    length = 320 + 40 * (seed % 3)
    wave = np.sin(np.arange(length) * 0.05 * (seed + 1)) + np.random.default_rng(seed).normal(0, 0.1, length)
    return {"x": wave.astype(np.float32).reshape(1, 1, -1)}


MODELS = {"token ids and a mask": (tokens, token_feeds), "audio": (audio, audio_feeds)}


def one_npz(folder, feeds):
    np.savez(folder / "data.npz", **{name: np.concatenate([f[name] for f in feeds]) for name in feeds[0]})
    return folder / "data.npz"


def npz_folder(folder, feeds):
    for i, feed in enumerate(feeds):
        np.savez(folder / f"{i}.npz", **feed)
    return folder


def onnx_test_sets(folder, feeds):
    for i, feed in enumerate(feeds):
        (folder / f"test_data_set_{i}").mkdir()
        for k, (name, array) in enumerate(feed.items()):
            tensor = numpy_helper.from_array(array, name)
            (folder / f"test_data_set_{i}" / f"input_{k}.pb").write_bytes(tensor.SerializeToString())
    return folder


class Reader:
    """As onnxruntime's CalibrationDataReader."""

    def __init__(self, feeds):
        self.left = list(feeds)

    def get_next(self):
        return self.left.pop(0) if self.left else None


DATA = {
    "a .npz of an array an input": one_npz,
    "a folder of .npz": npz_folder,
    "a folder of test_data_set_*": onnx_test_sets,
    "a list of dicts": lambda folder, feeds: feeds,
    "a generator": lambda folder, feeds: (feed for feed in feeds),
    "a CalibrationDataReader": lambda folder, feeds: Reader(feeds),
}


@pytest.mark.parametrize("data", DATA)
@pytest.mark.parametrize("name", MODELS)
def test_a_model_is_quantized_with_any_kind_of_data(name, data, tmp_path):
    build, feed = MODELS[name]
    step = 3 if name == "audio" and data == "a .npz of an array an input" else 1  # one array has one length
    given = DATA[data](tmp_path, [feed(step * i) for i in range(SAMPLES)])
    proto, held_back = build(), feed(99)
    result = pipeline.quantize(proto, given, config=FAST)
    assert any(node.op_type.startswith("Q") and node.domain == "quantkit" for node in result.model.graph)
    wanted = run_onnxruntime(proto, held_back)[0]
    assert sqnr_db(wanted, Session(result.model, threads=1).run(None, held_back)[0]) > 20


def test_a_callable_by_name_and_a_folder_of_npz_work_from_the_command_line(tmp_path, monkeypatch):
    onnx.save(tokens(), tmp_path / "tokens.onnx")
    (tmp_path / "data").mkdir()
    npz_folder(tmp_path / "data", [token_feeds(i) for i in range(3)])
    (tmp_path / "samples_of_mine.py").write_text(
        "import numpy as np\n"
        "def samples():\n"
        "    for i in range(4):\n"
        "        yield {'ids': np.full((1, 7), i), 'mask': np.ones((1, 7), bool)}\n"
    )
    monkeypatch.chdir(tmp_path)
    for i, data in enumerate(("data", "samples_of_mine:samples")):
        command = [
            "quantize",
            "tokens.onnx",
            "--data",
            data,
            "-o",
            f"{i}.onnx",
            "--effort",
            "fast",
            "--keep-int8",
            "-q",
        ]
        assert main(command) == 0
        assert Session(tmp_path / f"{i}.onnx").run(None, token_feeds(5))[0].shape == (1, 5)
