"""Every command and block of code in the documentation runs as it is written, in its order, on small real models."""

from __future__ import annotations

import re
import shutil
import sys

import numpy as np
import pytest

from benchmarks.__main__ import parse as benchmark_options
from quantkit.cli.help import EXAMPLES
from tests.conftest import REPOSITORY
from tests.docs.pages import INSTALLS, Reader, parse, steps, words

MODELS = ("model.onnx", "model.int8.onnx")
GIVEN: dict[str, tuple[str, ...]] = {
    "README.md": ("model.onnx", "images", "validation"),
    "docs/index.md": ("model.onnx", "images"),
    "docs/tutorial.md": ("calib",),
    "docs/api.md": ("model.onnx",),
    "docs/how-to/accuracy.md": (*MODELS, "images", "validation"),
    "docs/how-to/detection.md": ("yolo.onnx", "images", "validation"),
    "docs/how-to/other-runtimes.md": ("model.int8.onnx",),
    "docs/how-to/preprocessing.md": ("model.onnx", "images"),
    "docs/how-to/serve.md": ("model.int8.onnx", "images", "examples"),
    "docs/how-to/speed.md": ("model.int8.onnx",),
    "docs/how-to/transformers.md": ("encoder.onnx",),
}
"""Page -> files that its reader has; `calib` and `examples` are those of the repository."""

NOT_RUN = {
    ("docs/how-to/other-runtimes.md", "TensorRT"),
    ("docs/how-to/other-runtimes.md", "openvino"),
    ("README.md", "make demo"),  # a continuous integration of its own: .ci/run begins with make
    ("README.md", "make test"),
    ("README.md", ". .venv/bin/activate"),
}
"""What a page shows and this test only parses."""

PHOTOGRAPHS = np.zeros((2, 3, 224, 224), np.float32)
NAMES = {
    "README.md": {"batch": PHOTOGRAPHS},
    "docs/index.md": {"batch": PHOTOGRAPHS},
    "docs/api.md": {"data": [PHOTOGRAPHS]},
    "docs/how-to/transformers.md": {
        "texts": ["one", "two and three"],
        "tokenizer": lambda text, return_tensors: {"input_ids": np.arange(1, 9, dtype=np.int64)[None]},
    },
}
"""What a page takes for defined in Python."""


@pytest.fixture
def reader(kit, tmp_path, monkeypatch, request):
    """Reader in a folder that holds what `page` may find there."""
    page = request.getfixturevalue("page")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["", *sys.path])
    modules = set(sys.modules)
    give(kit, tmp_path, GIVEN[page])
    reader = Reader(tmp_path, dict(NAMES.get(page, {})))
    yield reader
    reader.close()
    for name in set(sys.modules) - modules:  # samples.py of one page is not that of another
        if str(getattr(sys.modules[name], "__file__", None) or "").startswith((str(tmp_path), "samples")):
            del sys.modules[name]


def give(kit, folder, names):
    for name in names:
        source = kit / name if (kit / name).exists() else REPOSITORY / name
        if name in ("calib", "examples"):
            (folder / name).symlink_to(source)
        else:
            (shutil.copytree if source.is_dir() else shutil.copy)(source, folder / name)


@pytest.mark.parametrize("page", GIVEN)
def test_a_reader_can_do_what_the_page_says(reader, page):
    assert reader.follow(page) >= 1


def test_every_page_with_something_to_type_is_followed():
    pages = [*REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").rglob("*.md")]
    names = {str(path.relative_to(REPOSITORY)) for path in pages}
    typed = {name for name in names if any(step.kind in ("sh", "python") for step in steps(name))}
    assert typed == set(GIVEN) | {"docs/cli.md"}  # whose examples stand alone, see below


def test_what_is_not_run_is_known_by_name():
    found = {(page, step.needs) for page in GIVEN for step in steps(page) if step.needs}
    found |= {
        (page, line.split("#")[0].strip())
        for page in GIVEN
        for step in steps(page)
        if step.kind == "sh"
        for line in step.lines
        if words(line)[0] in INSTALLS
    }
    assert found == NOT_RUN


@pytest.mark.parametrize("line", [line for name, lines in EXAMPLES.items() if name != "demo" for line in lines])
def test_every_example_of_the_help_runs_but_the_demo_which_the_tutorial_runs(kit, tmp_path, monkeypatch, line):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["", *sys.path])
    give(kit, tmp_path, [path.name for path in kit.iterdir() if path.stem in line])
    (tmp_path / ".config" / "fish" / "completions").mkdir(parents=True)
    Reader(tmp_path).type(line)


def test_the_commands_of_the_comparison_and_of_the_benchmarks_are_ones_that_these_take():
    text = "".join(
        (REPOSITORY / page).read_text(encoding="utf-8") for page in ("docs/comparison.md", "benchmarks/README.md")
    )
    lines = re.findall(r"python -m benchmarks( [^`#\n]*)?[`#\n]", text)
    assert len(lines) >= 6
    for line in lines:
        assert benchmark_options(words(line)), line


def test_inline_commands_are_ones_that_the_command_line_takes():
    pages = [*REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").rglob("*.md")]
    inline = [step for path in pages for step in steps(str(path.relative_to(REPOSITORY))) if step.kind == "inline"]
    assert len(inline) >= 3
    for step in inline:
        parse(step)
