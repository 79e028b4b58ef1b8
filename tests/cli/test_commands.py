"""Every command on the embedded model: what it prints, what it writes, and the keys of its JSON."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from quantkit.cli import main
from quantkit.errors import AccuracyGoalMissed
from quantkit.execute import Session
from tests.conftest import REPOSITORY
from tests.digits import Digits
from tests.graphs import CONV, image
from tests.graphs import model as model_of


def run(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


def quantize_arguments(digits: Digits, output: Path, *more: object) -> list[object]:
    samples = ("--data", digits.calib, "--preprocess", digits.recipe, "--samples", 32)
    return ["quantize", digits.fp32, *samples, "-o", output, *more]


def load_json(path: Path) -> dict:
    return json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


def test_convert_then_calibrate_write_models_beside_the_input(digits, tmp_path, capsys):
    model = tmp_path / "net.onnx"
    model.write_bytes(digits.fp32.read_bytes())
    assert run("convert", model) == 0
    converted = tmp_path / "net.converted.onnx"
    assert str(converted) in capsys.readouterr().out
    assert run("calibrate", converted, "--data", digits.calib, "--preprocess", digits.recipe, "--samples", 32) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["net.converted.onnx", "net.int8.onnx", "net.onnx"]
    out, err = capsys.readouterr()
    assert "net.int8.onnx" in out
    assert err == ""  # progress is for terminals


def test_convert_prints_what_was_folded_and_fused_and_what_stays_fp32_and_why(digits, tmp_path, capsys):
    assert run("convert", digits.fp32, "-o", tmp_path / "out.onnx", "--keep-fp32", "classifier") == 0
    out = capsys.readouterr().out
    assert "Conv + Add + Relu -> ConvAddRelu" in out
    assert "fold" in out
    assert "/classifier/Gemm" in out
    assert "--keep-fp32" in out


def test_verbose_lists_every_decision_and_quiet_prints_nothing(digits, tmp_path, capsys):
    assert run("convert", digits.fp32, "-o", tmp_path / "a.onnx", "-v") == 0
    assert "/stage2/second/conv/Conv" in capsys.readouterr().out
    assert run("convert", digits.fp32, "-o", tmp_path / "b.onnx", "-q") == 0
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("artifact", ["fp32", "converted", "int8"])
def test_run_takes_all_three_artifacts_and_saves_outputs_by_name(digits, tmp_path, artifact):
    out = tmp_path / "out.npz"
    recipe = ("--preprocess", digits.recipe) if artifact != "int8" else ()  # it is in the calibrated model's metadata
    assert run("run", getattr(digits, artifact), "--input", digits.test, "-o", out, *recipe, "--samples", 50) == 0
    logits = np.load(out)["logits"]
    assert logits.shape == (50, 10)
    assert logits.dtype == np.float32


def test_run_gives_the_same_bytes_for_every_batch_size_and_number_of_threads(digits, tmp_path):
    outputs = []
    for i, options in enumerate([("--batch-size", 1), ("--batch-size", 7, "--threads", 3), ("--isa", "scalar")]):
        out = tmp_path / f"{i}.npz"
        assert run("run", digits.int8, "-i", digits.test, "-o", out, "--samples", 20, *options) == 0
        outputs.append(np.load(out)["logits"].tobytes())
    assert outputs[0] == outputs[1] == outputs[2]


def test_run_matches_onnxruntime_on_the_fp32_model(digits, tmp_path):
    images = np.random.default_rng(1).standard_normal((3, 1, 32, 32)).astype(np.float32)
    np.save(tmp_path / "x.npy", images)
    assert run("run", digits.fp32, "-i", tmp_path / "x.npy", "-o", tmp_path / "y.npz") == 0
    expected = onnxruntime.InferenceSession(digits.fp32).run(None, {"input": images})[0]
    np.testing.assert_allclose(np.load(tmp_path / "y.npz")["logits"], expected, rtol=1e-5, atol=1e-5)


def test_compare_prints_tables_and_writes_the_json_of_the_contract(digits, tmp_path, capsys):
    result = tmp_path / "c.json"
    report = tmp_path / "c.html"
    arguments = ("--data", digits.test, "--samples", 100, "--seconds", 0.2, "--json", result, "--report", report)
    assert run("compare", digits.fp32, digits.int8, *arguments) == 0
    out = capsys.readouterr().out
    assert "top-1" in out
    assert "measured on" in out
    values = load_json(result)
    contract = "fp32 int8 samples agreement sqnr_db flips throughput coverage machine layers".split()
    assert set(values) >= {*contract, "confidence", "latency", "provenance"}
    for model, path in (("fp32", digits.fp32), ("int8", digits.int8)):
        assert set(values[model]) == {"top1", "top5", "bytes"}
        assert values[model]["bytes"] == path.stat().st_size
        assert values[model]["top1"] > 0.95
    assert values["samples"] == 100
    assert values["agreement"] > 0.97
    assert values["sqnr_db"] > 25
    assert set(values["flips"]) == {"fixed", "broken"}
    assert {"fp32_onnxruntime", "int8_quantkit", "speedup"} <= set(values["throughput"])
    assert values["coverage"]["native_macs"] == 1.0
    assert {"name", "op", "sqnr_db"} <= set(values["layers"][0])
    page = report.read_text()
    assert page.startswith("<!doctype html>")
    assert all(layer["name"] in page for layer in values["layers"])
    assert "http" not in page  # one file, no other


def test_compare_without_labels_has_no_accuracy_and_no_flips(digits, tmp_path):
    images = np.load(digits.test)["images"][:20]
    np.savez(tmp_path / "unlabelled.npz", images=images)
    data, result = tmp_path / "unlabelled.npz", tmp_path / "c.json"
    assert run("compare", digits.fp32, digits.int8, "--data", data, "--json", result, "--seconds", 0) == 0
    values = load_json(result)
    assert values["fp32"]["top1"] is None
    assert "flips" not in values
    assert "throughput" not in values  # --seconds 0
    assert values["agreement"] is not None


def test_bench_measures_every_model_in_every_runtime(digits, tmp_path, capsys):
    result = tmp_path / "b.json"
    arguments = ("--against", "onnxruntime", "--seconds", 0.2, "--batch", 2, "--threads", 1, "--per-layer")
    assert run("bench", digits.int8, digits.fp32, *arguments, "--json", result) == 0
    assert capsys.readouterr().out.startswith("speed")
    values = load_json(result)
    assert set(values) >= set("machine isa threads batch rounds results ratios layers peak_gmacs_per_s".split())
    pairs = [(entry["model"], entry["runtime"]) for entry in values["results"]]
    assert pairs == [
        (path.name, runtime) for path in (digits.int8, digits.fp32) for runtime in ("quantkit", "onnxruntime")
    ]
    assert set(values["results"][0]) >= {"model", "runtime", "median_ms", "min_ms", "samples_per_s", "p99_ms"}
    assert len(values["ratios"]) == 6
    assert (values["threads"], values["batch"]) == (1, 2)
    assert {"name", "op", "kernel", "us", "gmacs_per_s"} <= set(values["layers"][0])


def test_inspect_says_for_every_node_where_it_runs(digits, tmp_path, capsys):
    result = tmp_path / "i.json"
    assert run("inspect", digits.int8, "--isa", "scalar", "--json", result) == 0
    assert "100.00 % of the multiply-accumulates" in capsys.readouterr().out
    values = load_json(result)
    assert values["coverage"] == {"native_macs": 1.0, "native_nodes": 1.0}
    assert len(values["nodes"]) == len(onnx.load(digits.int8).graph.node)
    for node in values["nodes"]:
        assert {"name", "op", "runs_on", "kernel", "reason", "macs"} <= set(node)
    assert {node["runs_on"] for node in values["nodes"]} == {"native"}


def test_inspect_gives_a_reason_for_every_node_that_onnxruntime_runs(digits, tmp_path):
    result = tmp_path / "i.json"
    assert run("inspect", digits.fp32, "--json", result) == 0
    assert all(node["runs_on"] == "onnxruntime" and node["reason"] for node in load_json(result)["nodes"])


def test_the_fusable_export_is_what_onnxruntime_makes_of_the_model_itself(digits, tmp_path, capsys):
    out = tmp_path / "q.onnx"
    assert run("export", digits.int8, "--format", "qdq", "--fusable", "-o", out) == 0
    assert "fusable form: runtimes join it to INT8 kernels" in capsys.readouterr().err
    model = onnx.load(out)
    onnx.checker.check_model(model, full_check=True)
    assert {node.domain for node in model.graph.node} == {""}
    assert not model.functions
    images = np.random.default_rng(2).standard_normal((2, 1, 32, 32)).astype(np.float32)
    results = [onnxruntime.InferenceSession(path).run(None, {"input": images})[0] for path in (digits.int8, out)]
    np.testing.assert_array_equal(*results)


def test_export_writes_integer_operators_that_compute_the_same_within_a_step(digits, tmp_path):
    out = tmp_path / "q.onnx"
    assert run("export", digits.int8, "--format", "qoperator", "-o", out) == 0
    model = onnx.load(out)
    onnx.checker.check_model(model, full_check=True)
    assert {"QLinearConv", "QGemm"} <= {node.op_type for node in model.graph.node}
    images = np.random.default_rng(2).standard_normal((2, 1, 32, 32)).astype(np.float32)
    wanted, got = (onnxruntime.InferenceSession(path).run(None, {"input": images})[0] for path in (digits.int8, out))
    assert np.abs(wanted - got).max() <= 0.02 * np.ptp(wanted)


@pytest.mark.parametrize("options", [(), ("--exact",), ("--format", "qdq")])
def test_the_export_gives_the_bits_of_the_engine_by_default(options, digits, tmp_path, capsys):
    source = shutil.copy(digits.int8, tmp_path / "model.onnx")
    assert run("export", source, *options) == 0
    out, said = tmp_path / "model.qdq.onnx", capsys.readouterr()
    assert "--fusable writes the one that they join to INT8 kernels" in said.err
    assert "INT8 kernels" not in said.out
    images = np.random.default_rng(2).standard_normal((2, 1, 32, 32)).astype(np.float32)
    got = onnxruntime.InferenceSession(out).run(None, {"input": images})[0]
    np.testing.assert_array_equal(got, Session(digits.int8, threads=1).run(None, {"input": images})[0])
    assert run("export", source, *options, "--force", "-q") == 0
    assert not capsys.readouterr().err


def test_qoperator_has_no_exact_form_to_ask_for(digits, tmp_path, capsys):
    out = tmp_path / "y.onnx"
    assert run("export", digits.int8, "--format", "qoperator", "-o", out) == 0
    assert run("export", digits.int8, "--format", "qoperator", "--fusable", "--force", "-o", out) == 0
    assert "form: " not in capsys.readouterr().err
    assert run("export", digits.int8, "--exact", "--format", "qoperator", "--force", "-o", out) == 2
    assert "--exact is a form of qdq, not of qoperator; leave one of the two out. See `" in capsys.readouterr().err


def test_doctor_passes_its_self_test_here(tmp_path, capsys):
    result = tmp_path / "d.json"
    assert run("doctor", "--json", result) == 0
    assert "passed" in capsys.readouterr().out
    values = load_json(result)
    assert set(values) == {"cpu", "isas", "chosen", "cores", "threads", "self_test", "versions", "hints"}
    assert values["isas"]["scalar"] is True
    assert values["isas"][values["chosen"]] is True
    assert values["self_test"] == "passed"
    assert {"quantkit", "python", "onnxruntime"} <= set(values["versions"])


def test_demo_walks_the_whole_road(tmp_path, capsys):
    folder = tmp_path / "walk"
    assert run("demo", folder) == 0
    out = capsys.readouterr().out
    assert "smaller" in out
    assert "% of the digits right" in out
    names = {path.name for path in folder.iterdir()}
    assert {"digits_cnn.onnx", "digits_cnn.converted.onnx", "digits_cnn.int8.onnx", "comparison.html"} <= names
    assert run("demo", folder) == 1
    assert "--force" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("goal", "named"),
    [(("--min-sqnr", 90), "--min-sqnr 90"), (("--min-agreement", 1.0, "--min-sqnr", 90), "SQNR")],
)
def test_a_missed_goal_ends_with_3_and_the_model_is_saved(tmp_path, capsys, goal, named):
    """The whole search, to layers in FP32, on a network on which it takes a second."""
    fp32, data, out = (tmp_path / name for name in ("net.onnx", "data.npz", "out.onnx"))
    body = f"c = Conv<{CONV}>(x, w, b) r = Relu(c) d = Conv<{CONV}>(r, v, b) g = GlobalAveragePool(d) y = Flatten(g)"
    onnx.save(model_of(body, {"w": (4, 3, 3, 3), "b": (4,), "v": (4, 4, 3, 3)}, outputs="float[N,4] y"), fp32)
    np.savez(data, x=image(16, 3, 8, 8))
    arguments = ["quantize", fp32, "--data", data, "-o", out, "--keep-int8", *goal]
    assert run(*arguments) == AccuracyGoalMissed.exit_code == 3
    assert named in capsys.readouterr().err
    record = json.loads(Session(out).metadata["quantkit.goal"])
    assert {entry["effort"] for entry in record["tried"]} == {"balanced", "best"}
    assert record["tried"][-1]["fp32_layers"] > 0
    assert not record["reached"]


def test_goals_that_are_reached_end_with_0(digits, tmp_path):
    goals = ("--effort", "fast", "--max-drop", 5, "--min-agreement", 0.9, "--min-sqnr", 20)
    assert run(*quantize_arguments(digits, tmp_path / "out.onnx", *goals)) == 0


def test_a_goal_of_calibrate_finds_the_fp32_model_beside_the_converted_one(digits, tmp_path):
    samples = ("--data", digits.calib, "--preprocess", digits.recipe, "--samples", 32)
    assert run("calibrate", digits.converted, *samples, "-o", tmp_path / "out.onnx", "--min-sqnr", 20) == 0


def test_a_saved_table_gives_the_same_model_without_calibrating_again(digits, tmp_path):
    table = tmp_path / "table.json"
    first, second = tmp_path / "first.onnx", tmp_path / "second.onnx"
    assert run(*quantize_arguments(digits, first, "--table-out", table)) == 0
    assert run(*quantize_arguments(digits, second, "--table-in", table)) == 0
    assert first.read_bytes() == second.read_bytes()


def test_a_table_of_other_data_is_refused(digits, tmp_path, capsys):
    table = tmp_path / "table.json"
    assert run(*quantize_arguments(digits, tmp_path / "a.onnx", "--effort", "fast", "--table-out", table)) == 0
    arguments = quantize_arguments(digits, tmp_path / "b.onnx", "--table-in", table)
    arguments[arguments.index(digits.calib)] = digits.test
    capsys.readouterr()
    assert run(*arguments) == 1
    assert "calibration table" in capsys.readouterr().err
    assert not (tmp_path / "b.onnx").exists()


@pytest.mark.parametrize("method", ["minmax", "percentile", "entropy", "mse"])
def test_every_method_is_accepted_and_recorded(digits, tmp_path, method):
    out = tmp_path / "out.onnx"
    assert run(*quantize_arguments(digits, out, "--effort", "fast", "--method", method, "-q")) == 0
    metadata = {entry.key: entry.value for entry in onnx.load(out).metadata_props}
    assert metadata["quantkit.method"] == method


def test_ctrl_c_ends_with_130_and_leaves_nothing_partial(digits, tmp_path):
    """The data source tells when calibration has begun, then waits to be interrupted."""
    (tmp_path / "slow.py").write_text(
        "import pathlib, time, numpy as np\n"
        "def samples():\n"
        "    yield {'input': np.zeros((1, 1, 32, 32), np.float32)}\n"
        f"    pathlib.Path({str(tmp_path / 'begun')!r}).touch()\n"
        "    time.sleep(60)\n"
    )
    code = "import sys; from quantkit.cli import main; sys.exit(main())"
    out = tmp_path / "out.onnx"
    command = [sys.executable, "-c", code, "quantize", str(digits.fp32), "--data", "slow:samples", "-o", str(out)]
    environment = {**os.environ, "PYTHONPATH": f"{REPOSITORY}:{tmp_path}"}
    process = subprocess.Popen(
        command, env=environment, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a background job inherits it ignored
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while not (tmp_path / "begun").exists() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "interrupted" in err
    assert "Traceback" not in err
    assert {path.name for path in tmp_path.iterdir()} <= {"slow.py", "begun", "__pycache__"}


def test_a_model_without_anything_to_quantize_is_saved_and_said_to_be_fp32(tmp_path, capsys):
    info = onnx.helper.make_tensor_value_info
    node = onnx.helper.make_node("Softmax", ["x"], ["y"], name="softmax")
    graph = onnx.helper.make_graph([node], "g", [info("x", 1, ["N", 4])], [info("y", 1, ["N", 4])])
    model = tmp_path / "softmax.onnx"
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8), model)
    np.save(tmp_path / "x.npy", np.random.default_rng(3).standard_normal((4, 4)).astype(np.float32))
    assert run("quantize", model, "--data", tmp_path / "x.npy") == 0
    assert "warning: nothing in" in capsys.readouterr().err
    assert (tmp_path / "softmax.int8.onnx").is_file()


def test_ctrl_c_while_the_program_is_still_being_imported_ends_in_a_line_too():
    code = (
        "import sys\n"
        "class Interrupted:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'click': raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Interrupted())\n"
        "from quantkit.__main__ import start\n"
        "sys.exit(start())"
    )
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run([sys.executable, "-c", code, "--help"], env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (130, "quantkit: interrupted; nothing partial was left behind\n")
