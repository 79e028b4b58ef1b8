"""The plan cache: a second start is the same, and nothing that happens to its files changes a result."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from quantkit import Session
from quantkit.execute import cache
from quantkit.execute.binding import available_isas
from tests.graphs import CONV, all_in_int8, image, model, quantized

POINT = "kernel_shape = [1, 1], pads = [0, 0, 0, 0], strides = [1, 1], dilations = [1, 1], group = 1"
W = {"w": (8, 3, 3, 3), "b": (8,), "v": (8, 8, 1, 1), "f": (10, 8)}
BODY = (f"c = Conv<{CONV}>(x, w, b) t = Tanh(c) q = Conv<{POINT}>(t, v) a = Add(q, t) "
        "p = GlobalAveragePool(a) k = Flatten(p) y = Gemm<transB=1>(k, f)")  # fmt: skip


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("QUANTKIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def file(tmp_path) -> Path:
    path = tmp_path / "m.int8.onnx"
    ir.save(quantized(model(BODY, W, outputs="float[N,10] y")), path)
    return path


def forbid_loading(monkeypatch):
    def refuse(*arguments, **options):
        raise AssertionError("the model was loaded")

    monkeypatch.setattr("quantkit.load.load", refuse)


def test_the_second_start_loads_no_model_and_gives_the_same_bits(folder, file, monkeypatch):
    x = image(2, 3, 8, 8)
    for isa in (isa for isa, there in available_isas().items() if there):
        first = Session(file, threads=1, isa=isa)
        expected = first.run(None, {"x": x})[0]
        with monkeypatch.context() as patch:
            forbid_loading(patch)
            second = Session(file, threads=1, isa=isa)
            np.testing.assert_array_equal(second.run(None, {"x": x})[0], expected)
            assert second.get_inputs() == first.get_inputs()
            assert second.get_outputs() == first.get_outputs()
            assert second.metadata == first.metadata
        assert [p.kernel for p in second.plan] == [p.kernel for p in first.plan]


def test_a_new_shape_after_a_fast_start_is_planned_and_stored(folder, file, monkeypatch):
    Session(file, threads=1).run(None, {"x": image(1, 3, 8, 8)})
    x = image(3, 3, 8, 8)
    expected = Session(file, threads=1).run(None, {"x": x})[0]
    forbid_loading(monkeypatch)
    np.testing.assert_array_equal(Session(file, threads=1).run(None, {"x": x})[0], expected)


def test_another_model_under_the_same_name_is_another_entry(folder, file):
    x = image(1, 3, 8, 8)
    Session(file, threads=1).run(None, {"x": x})
    proto = onnx.load(file)
    weights = next(t for t in proto.graph.initializer if t.data_type == onnx.TensorProto.INT8 and len(t.dims) == 4)
    weights.raw_data = bytes(len(weights.raw_data))
    expected = Session(proto, threads=1).run(None, {"x": x})[0]
    onnx.save(proto, file)
    np.testing.assert_array_equal(Session(file, threads=1).run(None, {"x": x})[0], expected)


def flip(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("where", [0, 8, 40, 200, -1])
def test_a_flipped_bit_is_noticed_and_the_file_made_again(folder, file, where):
    x = image(1, 3, 8, 8)
    expected = Session(file, threads=1).run(None, {"x": x})[0]
    paths = sorted(folder.iterdir())
    sizes = [p.stat().st_size for p in paths]
    assert len(paths) == 3
    for path, size in zip(paths, sizes, strict=True):
        flip(path, where % size)
    np.testing.assert_array_equal(Session(file, threads=1).run(None, {"x": x})[0], expected)
    assert [p.stat().st_size for p in paths] == sizes
    assert all(cache.read(p.name.removesuffix(cache.SUFFIX)) is not None for p in paths)


def test_a_model_of_others_is_not_stored(folder, tmp_path):
    fp32 = tmp_path / "fp32.onnx"
    onnx.save(model(BODY, W, outputs="float[N,10] y"), fp32)
    Session(fp32, threads=1).run(None, {"x": image(1, 3, 8, 8)})
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("left", [0, 10, 100, -1])
def test_a_truncated_file_is_no_entry(folder, left):
    cache.write("e", {"k": [1, 2]}, [np.arange(5000, dtype=np.float32)])
    path = folder / f"e{cache.SUFFIX}"
    path.write_bytes(path.read_bytes()[:left])
    assert cache.read("e") is None
    assert not path.exists()


def test_arrays_and_content_come_back_as_they_were(folder):
    arrays = [np.arange(7, dtype=np.int8), np.zeros((0, 3), np.float32), np.ones((2, 3), np.int32), np.array(2.5)]
    cache.write("e", {"text": "é", "none": None}, arrays)
    content, found = cache.read("e")
    assert content == {"text": "é", "none": None}
    for array, back in zip(arrays, found, strict=True):
        assert back.dtype == array.dtype
        np.testing.assert_array_equal(back, array)
        assert back.ctypes.data % 64 == 0


def test_pages_that_changed_places_are_noticed():
    data = np.arange(3 * 4096, dtype=np.uint32).astype(np.uint8)
    data[:4096] = 7
    swapped = np.concatenate([data[4096:8192], data[:4096], data[8192:]])
    assert cache.checksum(data) == cache.checksum(data.copy())
    assert cache.checksum(data) != cache.checksum(swapped)


def test_the_least_recently_used_files_go_first_and_the_bound_holds(folder, monkeypatch):
    monkeypatch.setenv("QUANTKIT_CACHE_MB", "1")
    for i in range(4):
        cache.write(f"e{i}", {}, [np.full(240_000, i, np.uint8)])
        os.utime(folder / f"e{i}{cache.SUFFIX}", (1000 + i, 1000 + i))
    assert cache.read("e0") is not None  # now the youngest
    cache.write("e4", {}, [np.zeros(240_000, np.uint8)])
    assert sorted(p.name[:2] for p in folder.iterdir()) == ["e0", "e2", "e3", "e4"]
    assert sum(p.stat().st_size for p in folder.iterdir()) <= 1_000_000


def test_what_a_dead_writer_left_is_removed_and_a_live_one_is_left_alone(folder):
    folder.mkdir()
    old, new = folder / f"a{cache.TEMPORARY}", folder / f"b{cache.TEMPORARY}"
    old.write_bytes(b"x")
    new.write_bytes(b"x")
    past = time.time() - 2 * cache.ABANDONED_SECONDS
    os.utime(old, (past, past))
    cache.write("e", {}, [])
    assert not old.exists()
    assert new.exists()


def test_writers_at_the_same_time_leave_one_whole_file(folder):
    arrays = [np.full(300_000, i, np.uint8) for i in range(8)]
    threads = [threading.Thread(target=cache.write, args=("e", {"i": i}, [a])) for i, a in enumerate(arrays)]
    for thread in threads:
        thread.start()
    seen = [cache.read("e") for _ in range(50)]
    for thread in threads:
        thread.join()
    for entry in [*(s for s in seen if s is not None), cache.read("e")]:
        content, (array,) = entry
        assert (array == content["i"]).all()
    assert [p.name for p in folder.iterdir()] == [f"e{cache.SUFFIX}"]


def test_off_and_an_impossible_folder_only_cost_time(file, tmp_path, monkeypatch):
    x = image(1, 3, 8, 8)
    monkeypatch.setenv("QUANTKIT_CACHE", cache.OFF)
    expected = Session(file, threads=1).run(None, {"x": x})[0]
    (tmp_path / "no folder").write_bytes(b"")
    monkeypatch.setenv("QUANTKIT_CACHE", str(tmp_path / "no folder"))
    np.testing.assert_array_equal(Session(file, threads=1).run(None, {"x": x})[0], expected)
    assert cache.read("e") is None
    cache.write("e", {}, [])


def test_the_default_folder_is_in_the_users_cache_for_the_user_alone(tmp_path, monkeypatch):
    monkeypatch.delenv("QUANTKIT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache.cache_folder() == tmp_path / "quantkit"
    assert (tmp_path / "quantkit").stat().st_mode & 0o077 == 0


@pytest.fixture
def parts(tmp_path) -> Path:
    """Two native regions with a step of onnxruntime between them."""
    body = f"c = Conv<{CONV}>(x, w, b) s = Hardmax<axis=2>(c) y = Conv<{POINT}>(s, v)"
    path = tmp_path / "parts.onnx"
    calibrated = all_in_int8(model(body, {k: W[k] for k in "wbv"}), [image(4, 3, 8, 8)])
    calibrated.producer_name = "quantkit"
    ir.save(calibrated, path)
    return path


def test_a_model_that_onnxruntime_runs_in_part_starts_without_being_loaded(folder, parts, monkeypatch):
    x, other = image(1, 3, 8, 8), image(2, 3, 8, 8)
    first = Session(parts, threads=1)
    assert sum(step.native for step in first.steps) == 2 < len(first.steps)
    expected = first.run(None, {"x": x})[0]
    new_shape = Session(parts, threads=1).run(None, {"x": other})[0]
    forbid_loading(monkeypatch)
    second = Session(parts, threads=1)
    np.testing.assert_array_equal(second.run(None, {"x": x})[0], expected)
    np.testing.assert_array_equal(second.run(None, {"x": other})[0], new_shape)
    assert second.get_outputs() == first.get_outputs()


@pytest.mark.parametrize("damaged", range(5))
def test_a_damaged_entry_of_one_region_costs_only_time(folder, parts, damaged):
    x = image(1, 3, 8, 8)
    expected = Session(parts, threads=1).run(None, {"x": x})[0]
    paths = sorted(folder.iterdir())
    assert len(paths) == 5  # the model, and weights and plan of each region
    flip(paths[damaged], -1)
    np.testing.assert_array_equal(Session(parts, threads=1).run(None, {"x": x})[0], expected)
    assert cache.read(paths[damaged].name.removesuffix(cache.SUFFIX)) is not None


def test_a_second_start_imports_no_onnx(folder, file):
    Session(file, threads=1).run(None, {"x": image(1, 3, 8, 8)})
    code = (f"import sys, numpy, quantkit; s = quantkit.Session({str(file)!r}, threads=1);"
            "s.run(None, {'x': numpy.zeros((1, 3, 8, 8), numpy.float32)});"
            "print([m for m in ('onnx', 'onnx_ir', 'onnxruntime') if m in sys.modules])")  # fmt: skip
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
