"""Preprocessing: each key of the recipe, the presets, and the accuracy that depends on them."""

from __future__ import annotations

import csv
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from quantkit.errors import DataError, UsageError
from quantkit.observe import PRESETS, FloatRunner, Preprocess, load_preprocess, open_data
from quantkit.observe.preprocess import IMAGENET_MEAN, IMAGENET_STD, Crop, Resize


def picture(height: int, width: int, channels: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


def test_none_gives_the_pixel_values_channels_first():
    image = picture(5, 7)
    out = PRESETS["none"].apply(image)
    assert out.dtype == np.float32
    np.testing.assert_array_equal(out, image.transpose(2, 0, 1))


def test_cifar_normalises_with_the_imagenet_constants_and_keeps_the_size():
    image = picture(32, 32)
    expected = (image / 255.0 - np.array(IMAGENET_MEAN)) / np.array(IMAGENET_STD)
    np.testing.assert_array_equal(PRESETS["cifar"].apply(image), expected.astype(np.float32).transpose(2, 0, 1))


@pytest.mark.parametrize(("height", "width"), [(300, 400), (401, 333), (68, 71)])
def test_efficientnet_lite_crops_the_padded_square_and_resizes_bicubic(height, width):
    image = Image.fromarray(picture(height, width))
    side = int(224 / (224 + 32) * min(width, height))
    top, left = (height - side + 1) // 2, (width - side + 1) // 2
    square = image.crop((left, top, left + side, top + side)).resize((224, 224), Image.Resampling.BICUBIC)
    expected = (np.asarray(square).astype(np.float32) - 127) / 128
    np.testing.assert_array_equal(PRESETS["efficientnet-lite"].apply(image), expected.transpose(2, 0, 1))


@pytest.mark.parametrize(("height", "width", "resized"), [(300, 400, (341, 256)), (400, 300, (256, 341))])
def test_imagenet_resizes_the_short_side_then_crops_the_centre(height, width, resized):
    image = Image.fromarray(picture(height, width))
    larger = np.asarray(image.resize(resized, Image.Resampling.BILINEAR))
    top, left = (larger.shape[0] - 224 + 1) // 2, (larger.shape[1] - 224 + 1) // 2
    expected = larger[top : top + 224, left : left + 224].transpose(2, 0, 1)
    np.testing.assert_array_equal(replace(PRESETS["imagenet"], scale=1.0, mean=(0,), std=(1,)).apply(image), expected)


def test_exact_width_and_height_are_not_confused():
    out = Preprocess(resize=Resize(width=20, height=10)).apply(picture(8, 8))
    assert out.shape == (3, 10, 20)


def test_bgr_reverses_the_channels_and_nhwc_keeps_them_last():
    image = picture(4, 6)
    np.testing.assert_array_equal(Preprocess(color="BGR", layout="NHWC").apply(image), image[..., ::-1])


def test_bgr_means_are_in_the_order_of_the_colours_given():
    image = np.zeros((1, 1, 3), dtype=np.uint8)
    image[..., 2] = 200  # blue
    out = Preprocess(color="BGR", mean=(200.0, 0.0, 0.0)).apply(image)
    assert out.ravel().tolist() == [0.0, 0.0, 0.0]


def test_grey_images_become_rgb_and_rgb_becomes_grey():
    grey = picture(4, 4, 1)
    np.testing.assert_array_equal(PRESETS["none"].apply(grey), np.repeat(grey.transpose(2, 0, 1), 3, axis=0))
    assert Preprocess(color="L").apply(picture(4, 4)).shape == (1, 4, 4)
    np.testing.assert_array_equal(Preprocess(color="L").apply(grey[..., 0]), grey.transpose(2, 0, 1))


def test_alpha_is_dropped():
    image = picture(3, 3, 4)
    np.testing.assert_array_equal(PRESETS["none"].apply(image), image[..., :3].transpose(2, 0, 1))


def test_sixteen_bit_grey_keeps_its_high_byte():
    values = np.array([[0, 255, 256, 65535]], dtype=np.uint16)
    out = Preprocess(color="L").apply(Image.fromarray(values))
    assert out.ravel().tolist() == [0, 0, 1, 255]


def test_an_image_smaller_than_the_crop_is_an_error_that_names_both_sizes():
    with pytest.raises(DataError, match=r"20x10.*224"):
        Preprocess(crop=Crop(224)).apply(picture(10, 20))


@pytest.mark.parametrize("image", [np.zeros((4, 4, 3), np.float32), np.zeros((4, 4, 5), np.uint8)])
def test_arrays_that_are_no_images_are_refused(image):
    with pytest.raises(DataError, match="uint8"):
        Preprocess().apply(image)


def test_an_unknown_preset_lists_the_presets():
    with pytest.raises(UsageError, match="imagenet, efficientnet-lite, cifar, none"):
        load_preprocess("imagnet")


def test_a_toml_file_holds_every_key(tmp_path):
    path = tmp_path / "recipe.toml"
    path.write_text(
        'resize = { short_side = 256 }\ncrop = { size = 224, padding = 32 }\ninterpolation = "lanczos"\ncolor = "BGR"\n'
        'scale = 255\nmean = [0.1, 0.2, 0.3]\nstd = 0.5\nlayout = "NHWC"\n'
    )
    assert load_preprocess(path) == Preprocess(
        Resize(short_side=256), Crop(224, 32), "lanczos", "BGR", 255.0, (0.1, 0.2, 0.3), (0.5,), "NHWC"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("resise = { short_side = 256 }", "unknown key resise"),
        ("resize = { side = 256 }", "unknown key side"),
        ("resize = { width = 256 }", "width and height"),
        ("resize = 256", "resize must be a table"),
        ("crop = { size = 0 }", "positive"),
        ("crop = {}", "wrong type"),
        ('color = "CMYK"', "choose one of RGB, BGR, L"),
        ('interpolation = "cubic"', "choose one of nearest"),
        ('layout = "CHW"', "choose one of NCHW"),
        ("mean = [1.0, 2.0]", "mean"),
        ("std = [1.0, 0.0, 1.0]", "positive"),
        ("scale = 0", "positive"),
        ('scale = "x"', "wrong type"),
        ("scale = ", "not valid TOML"),
    ],
)
def test_a_bad_toml_file_is_a_usage_error_that_names_the_file(tmp_path, text, message):
    path = tmp_path / "recipe.toml"
    path.write_text(text)
    with pytest.raises(UsageError, match=message) as caught:
        load_preprocess(path)
    assert str(path) in str(caught.value)


def test_a_missing_toml_file_is_a_usage_error(tmp_path):
    with pytest.raises(UsageError, match="cannot be read"):
        load_preprocess(tmp_path / "absent.toml")


@pytest.mark.parametrize("name", PRESETS)
def test_json_of_a_preset_reads_back_equal_and_keeps_its_digest(name):
    preset = PRESETS[name]
    again = Preprocess.from_json(preset.to_json())
    assert again == preset
    assert again.digest == preset.digest


def test_digests_of_different_recipes_differ():
    assert len({preset.digest for preset in PRESETS.values()}) == len(PRESETS)


@pytest.mark.parametrize("text", ["", "[1]", '{"size": 3}'])
def test_damaged_metadata_is_a_usage_error(text):
    with pytest.raises(UsageError, match="metadata"):
        Preprocess.from_json(text)


def test_lite0_reaches_its_documented_accuracy_on_val(shared):
    runner = FloatRunner(shared("models/efficientnet_lite0.onnx"), spin=False)
    data = open_data(shared("data/imagenet/val"), runner.inputs, preprocess=load_preprocess("efficientnet-lite"))
    assert data.count == 500
    hits = sum(int((runner.run(batch.feeds)[0].argmax(axis=1) == batch.labels).sum()) for batch in data)
    assert hits / 500 == pytest.approx(
        0.896, abs=0.0021
    )  # one image is 0.002; other builds of onnxruntime may flip one


def test_resnet20_reaches_its_documented_accuracy_on_the_test_images(shared):
    runner = FloatRunner(shared("models/resnet20.onnx"), spin=False)
    data = open_data(shared("data/cifar10/test.npz"), runner.inputs, preprocess=load_preprocess("cifar"))
    hits = sum(int((runner.run(batch.feeds)[0].argmax(axis=1) == batch.labels).sum()) for batch in data)
    assert hits / len(data) == pytest.approx(0.8076, abs=0.00041)


def test_every_shared_val_image_has_the_label_of_its_row(shared):
    with shared("data/imagenet/labels.csv").open(newline="") as stream:
        rows = {row["file"]: int(row["class_index"]) for row in csv.DictReader(stream)}
    runner = FloatRunner(shared("models/efficientnet_lite0.onnx"), spin=False)
    data = open_data(
        shared("data/imagenet/calib"), runner.inputs, preprocess=load_preprocess("efficientnet-lite"), samples=5
    )
    for batch in data:
        assert [rows[f"calib/{name}"] for name in batch.names] == batch.labels.tolist()
