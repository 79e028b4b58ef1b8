"""Bad input ends in one clear line on stderr, exit code 1 or 2, and nothing written."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from PIL import Image

from quantkit.cli import main
from tests.digits import Digits

SEED = 7


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Three readable grey images, 8 x 8."""
    folder = tmp_path / "photos"
    folder.mkdir()
    generator = np.random.default_rng(SEED)
    for i in range(3):
        Image.fromarray(generator.integers(0, 256, (8, 8), np.uint8)).save(folder / f"good{i}.png")
    return folder


@pytest.fixture
def refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run a command that must fail with `code`, print one line and write nothing; returns that line."""

    def run(*arguments: object, code: int = 1) -> str:
        before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
        assert main([str(argument) for argument in arguments]) == code
        out, err = capsys.readouterr()
        assert out == ""
        lines = [line for line in err.splitlines() if not line.startswith("warning: ")]
        assert len(lines) == 1
        assert lines[0].startswith("quantkit: ")
        assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
        return lines[0]

    return run


@pytest.fixture
def quantize(digits: Digits, tmp_path: Path) -> Callable[..., list[object]]:
    """The arguments of a `quantize` that works, some of them replaced."""

    def arguments(model: object = None, data: object = None, output: object = None, *more: object) -> list[object]:
        return [
            *("quantize", model or digits.fp32),
            *("--data", data or digits.calib),
            *("-o", output or tmp_path / "out.onnx"),
            *("--preprocess", digits.recipe),
            *more,
        ]

    return arguments


def changed(source: Path, target: Path, change: Callable[[onnx.ModelProto], None]) -> Path:
    model = onnx.load(source)
    change(model)
    onnx.save(model, target)
    return target


def test_the_command_that_the_others_vary_works(quantize, tmp_path, capsys):
    assert main([str(argument) for argument in quantize(None, None, None, "--samples", "16")]) == 0
    assert (tmp_path / "out.onnx").is_file()


def test_a_truncated_onnx_file_is_refused(quantize, refused, digits, tmp_path):
    truncated = tmp_path / "truncated.onnx"
    truncated.write_bytes(digits.fp32.read_bytes()[:100_000])
    assert "truncated.onnx" in refused(*quantize(truncated))


def test_a_text_file_named_onnx_is_refused(quantize, refused, tmp_path):
    text = tmp_path / "text.onnx"
    text.write_text("this is not a model\n" * 20)
    assert "text.onnx" in refused(*quantize(text))


def test_a_missing_model_is_refused(quantize, refused, tmp_path):
    assert "missing.onnx" in refused(*quantize(tmp_path / "missing.onnx"))


def test_an_already_quantized_model_is_refused(quantize, refused, digits):
    assert "already quantized" in refused(*quantize(digits.int8))


def test_an_already_converted_model_is_refused_by_quantize(quantize, refused, digits):
    assert "already converted" in refused(*quantize(digits.converted))


def test_an_fp32_model_is_refused_by_calibrate(refused, digits, tmp_path):
    line = refused("calibrate", digits.fp32, "--data", digits.calib, "-o", tmp_path / "out.onnx")
    assert "quantkit convert" in line


def test_an_fp32_model_is_refused_by_export(refused, digits, tmp_path):
    assert "quantkit quantize" in refused("export", digits.fp32, "-o", tmp_path / "out.onnx")


def test_an_empty_data_folder_is_refused(quantize, refused, tmp_path):
    (tmp_path / "empty").mkdir()
    assert "empty" in refused(*quantize(None, tmp_path / "empty"))


def test_missing_data_are_refused(quantize, refused, tmp_path):
    assert "no such file or folder" in refused(*quantize(None, tmp_path / "nowhere"))


def test_a_corrupt_jpeg_among_good_images_is_named_and_skipped(quantize, photos, tmp_path, capsys):
    (photos / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 cut short")
    assert main([str(argument) for argument in quantize(None, photos)]) == 0
    _, err = capsys.readouterr()
    assert "broken.jpg" in err
    assert err.startswith("warning: ")
    assert (tmp_path / "out.onnx").is_file()


def test_a_corrupt_jpeg_is_an_error_when_strict(quantize, refused, photos):
    (photos / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 cut short")
    assert "broken.jpg" in refused(*quantize(None, photos, None, "--strict"))


def test_a_wrong_image_size_for_a_static_shape_model_is_refused(refused, digits, photos, tmp_path):
    line = refused(*("quantize", digits.fp32, "--data", photos, "--preprocess", "none", "-o", tmp_path / "out.onnx"))
    assert "wrong image size" in line
    assert "good0.png" in line


def test_nan_in_weights_is_refused_and_the_tensor_named(quantize, refused, digits, tmp_path):
    def spoil(model: onnx.ModelProto) -> None:
        tensor = model.graph.initializer[0]
        values = numpy_helper.to_array(tensor).copy()
        values.flat[3] = np.nan
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))

    line = refused(*quantize(changed(digits.fp32, tmp_path / "nan.onnx", spoil)))
    assert onnx.load(digits.fp32).graph.initializer[0].name in line


def test_nan_in_an_activation_is_refused_and_the_tensor_named(quantize, refused, digits, tmp_path):
    """The square root of values of both signs, in the middle of the graph."""

    def spoil(model: onnx.ModelProto) -> None:
        first = next(node for node in model.graph.node if node.op_type == "BatchNormalization")
        reader = next(node for node in model.graph.node if first.output[0] in node.input)
        reader.input[0] = "rooted"
        root = onnx.helper.make_node("Sqrt", [first.output[0]], ["rooted"], name="root")
        model.graph.node.insert(list(model.graph.node).index(reader), root)

    line = refused(*quantize(changed(digits.fp32, tmp_path / "root.onnx", spoil)))
    assert "NaN" in line or "not finite" in line


def test_nan_in_the_data_is_refused(refused, digits, tmp_path):
    array = np.zeros((4, 1, 32, 32), np.float32)
    array[2, 0, 5, 5] = np.nan
    np.save(tmp_path / "nan.npy", array)
    line = refused("quantize", digits.fp32, "--data", tmp_path / "nan.npy", "-o", tmp_path / "out.onnx")
    assert "NaN" in line or "not finite" in line


def test_an_existing_output_is_not_overwritten_without_force(quantize, refused, tmp_path):
    (tmp_path / "out.onnx").write_text("precious")
    assert "--force" in refused(*quantize())


def test_an_output_in_a_missing_folder_is_refused(quantize, refused, tmp_path):
    assert "does not exist" in refused(*quantize(None, None, tmp_path / "missing" / "out.onnx"))


def test_the_fp32_input_is_never_overwritten_even_with_force(quantize, refused, digits):
    assert "never overwritten" in refused(*quantize(None, None, digits.fp32, "--force"))


def test_an_unknown_preset_is_wrong_usage_and_the_known_are_listed(refused, digits, tmp_path):
    line = refused(
        *("quantize", digits.fp32, "--data", digits.calib, "--preprocess", "imagenette", "-o", tmp_path / "out.onnx"),
        code=2,
    )
    assert "efficientnet-lite" in line


def test_a_regex_that_matches_no_node_is_wrong_usage(quantize, refused):
    assert "no_such_node" in refused(*quantize(None, None, None, "--keep-fp32", "no_such_node"), code=2)


def test_a_broken_regex_is_wrong_usage(quantize, refused):
    assert "regular expression" in refused(*quantize(None, None, None, "--keep-fp32", "(open"), code=2)


def test_a_drop_goal_without_labels_is_wrong_usage_before_any_work(quantize, refused, photos):
    assert "labels" in refused(*quantize(None, photos, None, "--max-drop", "0.5"), code=2)


def test_models_with_other_outputs_cannot_be_compared(refused, digits, tmp_path):
    def rename(model: onnx.ModelProto) -> None:
        for node in model.graph.node:
            node.output[:] = ["scores" if name == "logits" else name for name in node.output]
        model.graph.output[0].name = "scores"

    other = changed(digits.fp32, tmp_path / "other.onnx", rename)
    line = refused("compare", other, digits.int8, "--data", digits.test)
    assert "scores" in line
    assert "logits" in line


def test_an_unknown_runtime_is_wrong_usage(refused, digits):
    assert "tensorrt" in refused("bench", digits.int8, "--against", "tensorrt", code=2)


def test_a_wrong_shape_is_wrong_usage(refused, digits):
    assert "--shape" in refused("bench", digits.int8, "--shape", "input=1,x", code=2)
    assert "no such input" in refused("bench", digits.int8, "--shape", "image=1,1,32,32", code=2)


def test_an_empty_name_is_not_the_current_folder(quantize, refused):
    """An unset variable, as in --data "$DIR"."""
    line = refused(*quantize(), "--data", "")
    assert "--data is empty" in line


def test_a_goal_that_nothing_can_reach_is_wrong_usage(quantize, refused):
    assert "0<=x<=100" in refused(*quantize(), "--max-drop", "-1", code=2)


def test_more_threads_than_make_sense_are_wrong_usage(quantize, refused):
    assert "1<=x<=1024" in refused(*quantize(), "--threads", "100000", code=2)


def test_too_little_memory_says_what_to_make_smaller(digits, refused):
    line = refused("bench", digits.int8, "--seconds", "0", "--batch", str(10**12))
    assert "not enough memory" in line
    assert "--batch" in line


def test_a_full_disk_behind_stdout_is_no_internal_error(digits):
    full = Path("/dev/full")
    if not full.is_char_device():
        pytest.skip("no /dev/full here")
    with full.open("w") as out:
        command = [sys.executable, "-m", "quantkit", "inspect", str(digits.int8)]
        found = subprocess.run(command, stdout=out, stderr=subprocess.PIPE, text=True, timeout=60)
    assert found.returncode == 1
    assert "No space left on device; check the path, its permissions and the space left" in found.stderr
    assert "internal error" not in found.stderr


def test_a_command_without_stderr_does_its_work(digits):
    command = f'"{sys.executable}" -m quantkit inspect "{digits.int8}" 2>&-'
    found = subprocess.run(command, shell=True, stdout=subprocess.PIPE, text=True, timeout=60)
    assert found.returncode == 0
    assert "native" in found.stdout


def test_labels_that_are_no_class_of_the_model_are_told(digits, tmp_path, capsys):
    images = np.load(digits.test)["images"][:4]
    np.savez(tmp_path / "x.npz", images=images, labels=np.array([0, 1, -1, 10]))
    command = ["compare", str(digits.fp32), str(digits.int8), "--data", str(tmp_path / "x.npz")]
    assert main([*command, "--seconds", "0"]) == 0
    assert "2 of 4 labels are not among the model's classes 0 to 9" in capsys.readouterr().err


def test_samples_that_are_all_the_same_value_are_told(quantize, tmp_path, capsys):
    np.save(tmp_path / "zero.npy", np.zeros((2, 1, 32, 32), np.float32))
    assert main([str(word) for word in quantize(data=tmp_path / "zero.npy")] + ["--effort", "fast"]) == 0
    assert "every value of input 'input' is 0 in every sample" in capsys.readouterr().err


def test_a_report_of_files_whose_names_are_no_unicode_is_written(digits, tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    pixels = np.load(digits.test)["images"]
    for i, name in enumerate([b"a\xff.png", b"<b>&.png"]):
        target = os.path.join(os.fsencode(folder), name)
        try:
            Image.fromarray(pixels[i].squeeze()).save(os.fsdecode(target))
        except OSError:
            pytest.skip("this file system takes no such names")
    report = tmp_path / "report.html"
    command = ["compare", str(digits.fp32), str(digits.int8), "--data", str(folder), "--seconds", "0"]
    assert main([*command, "--report", str(report), "--json", str(tmp_path / "r.json")]) == 0
    page = report.read_text(encoding="utf-8")
    assert "a\\udcff" in page
    assert "<b>&" not in page


def test_a_warning_that_was_given_is_not_repeated(quantize, photos, capsys):
    (photos / "labels.csv").write_text("file,class_index\ngood0.png,0\ngood1.png,1\n")
    assert main([str(word) for word in quantize(data=photos)] + ["--effort", "fast", "--max-drop", "100"]) == 0
    assert capsys.readouterr().err.count("1 image has no label") == 1
