"""Text read from rendered lines by PP-OCRv4, in FP32 and in INT8: how many lines read the same?

    python -m benchmarks.ocr [--kind words] [--lines 60] [--effort balanced] [--seed 0] [--threads N]

Needs the models of the wheel rapidocr-onnxruntime 1.4.4 (`pip install --no-deps`). Pages of six lines go through
detection, each line found is turned upright by the classifier's answer and read by the recognizer. Calibration uses
60 other lines, of codes in either case, on other pages. Fonts: DejaVu where it is installed, else the one that Pillow
carries.
"""

from __future__ import annotations

import argparse
import importlib.metadata
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
from PIL import Image, ImageDraw, ImageFont

from quantkit import Session, pipeline
from quantkit.execute.verify import sqnr_db
from quantkit.observe import FloatRunner
from quantkit.report.inspect import coverage
from quantkit.report.machine import describe_machine
from quantkit.types import EFFORTS, QuantConfig

PAGE = (640, 480)
PER_PAGE = 6
TEXT = 0.3
"""Probability above which the detector's map is text."""
UNCLIP = 1.5
"""The detector is trained on shrunken lines: a box grows by this times area / perimeter, as its authors do."""
LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
FONTS = ("DejaVuSans.ttf", "DejaVuSans-Bold.ttf", "DejaVuSerif.ttf", "DejaVuSansMono.ttf")
WORDS = (
    "invoice total amount paid order number street river mountain garden winter summer paper window market coffee "
    "letter yellow orange silver copper forest bridge station ticket museum library kitchen doctor lawyer teacher "
    "engine signal memory kernel vector matrix tensor planet rocket harbor island desert valley meadow castle"
).split()

MONTHS = "January February March April May June July August September October November December".split()
CALIBRATED_LINES = 60
NOISE = {"codes": 4.0, "words": 0.0}
"""Kind of lines -> standard deviation of the noise on its pages, of 255."""

Run = Callable[[np.ndarray], np.ndarray]


def phrases(count: int, seed: int, kind: str = "codes") -> list[str]:
    """Lines of two words and a mixed code; of the kind "words" as they are in letters and bills."""
    rng = np.random.default_rng(seed)
    return [_KINDS[kind](rng) for _ in range(count)]


def _code(rng: np.random.Generator) -> str:
    code = "".join(rng.choice(list(LETTERS), 5))
    return " ".join([*rng.choice(WORDS, 2), code])


def _everyday(rng: np.random.Generator) -> str:
    """Three words, or one or two with a date, a price or a number."""
    first, second, third = (str(word) for word in rng.choice(WORDS, 3))
    number = int(rng.integers(10, 100000))
    forms = (
        f"{first.capitalize()} {second} {third}",
        f"{first} {1 + number % 28} {rng.choice(MONTHS)} {1990 + number % 40}",
        f"{first.capitalize()} {second} {number / 100:.2f}",
        f"{second} No. {number}",
    )
    return forms[int(rng.integers(len(forms)))]


_KINDS = {"codes": _code, "words": _everyday}


def page_of(lines: Sequence[str], seed: int, noise: float = NOISE["codes"]) -> np.ndarray:
    """uint8 [480, 640, 3]: the lines one below the other, each in a font and size of its own, with a little noise."""
    rng = np.random.default_rng(seed)
    image = Image.new("RGB", PAGE, tuple(int(v) for v in rng.integers(215, 256, 3)))
    draw = ImageDraw.Draw(image)
    for place, line in enumerate(lines):
        size = int(rng.integers(24, 33))
        ink = tuple(int(v) for v in rng.integers(0, 90, 3))
        draw.text((int(rng.integers(15, 60)), 18 + place * 76), line, font=_font(rng, size), fill=ink)
    return np.clip(np.asarray(image) + rng.normal(0, noise, (*PAGE[::-1], 3)), 0, 255).astype(np.uint8)


def _font(rng: np.random.Generator, size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    try:
        return ImageFont.truetype(str(rng.choice(FONTS)), size)
    except OSError:
        return ImageFont.load_default(size)


def as_input(image: np.ndarray) -> np.ndarray:
    """uint8 RGB [H, W, 3] -> float32 BGR [1, 3, H, W], x / 127.5 - 1."""
    return np.ascontiguousarray((image[:, :, ::-1].astype(np.float32) / 127.5 - 1).transpose(2, 0, 1)[None])


def line_input(crop: np.ndarray, width: int) -> np.ndarray:
    """A line in height 48, in proportion, zeros at the right up to `width` (longer lines keep their own width)."""
    scaled = max(1, round(crop.shape[1] * 48 / crop.shape[0]))
    resized = np.asarray(Image.fromarray(crop).resize((scaled, 48), Image.Resampling.BILINEAR))
    x = as_input(resized)
    return np.pad(x, ((0, 0), (0, 0), (0, 0), (0, max(0, width - scaled)))) if scaled < width else x


def boxes(probability: np.ndarray) -> list[tuple[int, int, int, int]]:
    """(top, bottom, left, right) of each run of rows with text; enough for pages of lines one below the other."""
    text = probability > TEXT
    rows = np.concatenate([[False], text.any(axis=1), [False]]).astype(int)
    edges = np.flatnonzero(np.diff(rows))
    found = []
    for top, bottom in list(pairwise(edges))[::2]:
        columns = np.flatnonzero(text[top:bottom].any(axis=0))
        left, right = int(columns[0]), int(columns[-1]) + 1
        height, width = bottom - top, right - left
        grow = round(UNCLIP * height * width / (2 * (height + width)))
        found.append((max(0, int(top) - grow), int(bottom) + grow, max(0, left - grow), right + grow))
    return found


def decoded(scores: np.ndarray, characters: Sequence[str]) -> str:
    """Greedy CTC: float32 [T, classes]; class 0 is blank, the last one a space."""
    best = scores.argmax(axis=-1)
    kept = [c for before, c in pairwise([0, *best.tolist()]) if c != before and c != 0]
    return "".join(characters[c - 1] if c <= len(characters) else " " for c in kept)


def read_page(page: np.ndarray, detect: Run, turn: Run, recognize: Run, characters: Sequence[str]) -> list[str]:
    """The lines of a page, from top to bottom."""
    lines = []
    for top, bottom, left, right in boxes(detect(as_input(page))[0, 0]):
        crop = page[top:bottom, left:right]
        upside_down = bool(turn(line_input(crop, 192)[:, :, :, :192])[0].argmax() == 1)
        crop = np.ascontiguousarray(crop[::-1, ::-1]) if upside_down else crop
        lines.append(decoded(recognize(line_input(crop, 320))[0], characters))
    return lines


def crops_of(pages: Sequence[np.ndarray], detect: Run) -> list[np.ndarray]:
    """Every line that the detector finds on the pages."""
    return [page[a:b, c:d] for page in pages for a, b, c, d in boxes(detect(as_input(page))[0, 0])]


def models() -> dict[str, Path]:
    """role -> file in the wheel. Raises PackageNotFoundError where it is not installed."""
    wheel = importlib.metadata.distribution("rapidocr-onnxruntime")
    folder = Path(str(wheel.locate_file("rapidocr_onnxruntime/models")))
    names = {"detect": "ch_PP-OCRv4_det_infer", "turn": "ch_ppocr_mobile_v2.0_cls_infer",
             "recognize": "ch_PP-OCRv4_rec_infer"}  # fmt: skip
    return {role: folder / f"{name}.onnx" for role, name in names.items()}


def pages_of(lines: Sequence[str], seed: int, kind: str = "codes") -> list[np.ndarray]:
    """Pages of PER_PAGE lines."""
    return [page_of(lines[i : i + PER_PAGE], seed + i, NOISE[kind]) for i in range(0, len(lines), PER_PAGE)]


def inputs_of(role: str, pages: Sequence[np.ndarray], crops: Sequence[np.ndarray]) -> list[np.ndarray]:
    """What the model of this role is given: pages, or the lines found on them."""
    if role == "detect":
        return [as_input(page) for page in pages]
    return [line_input(crop, 192)[:, :, :, :192] if role == "turn" else line_input(crop, 320) for crop in crops]


def quantized(files: dict[str, Path], fp32: dict[str, Run], options: argparse.Namespace,
              pages: Sequence[np.ndarray]) -> dict[str, Run]:  # fmt: skip
    """The three models in INT8, calibrated on other pages; prints the fidelity of each on `pages`."""
    calibration = pages_of(phrases(CALIBRATED_LINES, seed=1000), seed=2000)
    crops, others = (crops_of(some, fp32["detect"]) for some in (calibration, pages))
    config = QuantConfig(effort=options.effort, keep_int8=True)
    int8: dict[str, Run] = {}
    for role, path in files.items():
        data = [{"x": x} for x in inputs_of(role, calibration, crops)]
        made = pipeline.quantize(path, data, config=config, threads=options.threads)
        int8[role] = _int8(made.model, options.threads)
        inputs = inputs_of(role, pages, others)
        outputs = [np.concatenate([run[role](x).reshape(-1) for x in inputs]) for run in (fp32, int8)]
        native = coverage(Session(made.model).plan)["native_macs"]
        db = f"output SQNR {sqnr_db(*outputs):.1f} dB"
        print(f"{role}: {path.name}, {made.kind}, {native:.1%} of the MACs native, {db}", flush=True)
    return int8


def main() -> None:
    """Quantizes the three models, reads the pages in both forms, prints what is equal."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--kind", choices=NOISE, default="words", help="words: as in letters and bills; codes: random letters"
    )
    parser.add_argument("--lines", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0, help="of the lines that are read")
    parser.add_argument("--effort", choices=EFFORTS, default="balanced")
    parser.add_argument("--threads", type=int)
    options = parser.parse_args()
    files = models()
    wanted = phrases(options.lines, 1 + options.seed, options.kind)
    pages = pages_of(wanted, 2 + options.seed, options.kind)
    fp32: dict[str, Run] = {role: _fp32(path, options.threads) for role, path in files.items()}
    int8 = quantized(files, fp32, options, pages)
    characters = {p.key: p.value for p in onnx.load(files["recognize"]).metadata_props}["character"].splitlines()
    texts: dict[str, list[str]] = {}
    for label, run in {
        "FP32": fp32,
        "INT8": int8,
        "INT8 detection alone": {**fp32, "detect": int8["detect"]},
        "INT8 recognition alone": {**fp32, "recognize": int8["recognize"]},
    }.items():
        texts[label] = [
            line for page in pages for line in read_page(page, run["detect"], run["turn"], run["recognize"], characters)
        ]
        same, right = (_equal(texts[label], other) for other in (texts["FP32"], wanted))
        print(f"{label}: {len(texts[label])} lines found, {same} as in FP32, {right} as rendered (spaces ignored)")
    machine = describe_machine("", options.threads or 0)
    print(f"measured on: {machine['cpu']}, --effort {options.effort}")


def _equal(lines: Sequence[str], others: Sequence[str]) -> int:
    pairs = zip(lines, others, strict=False)  # a line that was not found shifts those after it: they count as wrong
    return sum(a.replace(" ", "") == b.replace(" ", "") for a, b in pairs)


def _fp32(path: Path, threads: int | None) -> Run:
    runner = FloatRunner(path, threads)
    return lambda x: runner.run({"x": x})[0]


def _int8(model: object, threads: int | None) -> Run:
    session = Session(model, threads=threads)
    return lambda x: session.run(None, {"x": x})[0]


if __name__ == "__main__":
    main()
