"""From an image to a model input: resize, crop, colour, normalisation, layout. The recipe is data, not code."""

from __future__ import annotations

import functools
import hashlib
import importlib
import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from quantkit.errors import DataError, UsageError

if TYPE_CHECKING:
    from PIL import Image

INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos")
COLORS = {"RGB": 3, "BGR": 3, "L": 1}
LAYOUTS = ("NCHW", "NHWC")


@dataclass(frozen=True)
class Resize:
    """Either the short side in pixels (the long one follows, rounded down), or an exact width and height."""

    short_side: int | None = None
    width: int | None = None
    height: int | None = None

    def __post_init__(self) -> None:
        exact = self.width is not None and self.height is not None
        if (self.short_side is not None) == exact or (self.width is None) != (self.height is None):
            raise UsageError("resize needs either short_side, or width and height")
        _require_positive("resize", self.short_side, self.width, self.height)

    def size(self, width: int, height: int) -> tuple[int, int]:
        """(width, height) in pixels after the resize of an image of that size."""
        if self.short_side is None:
            assert self.width is not None
            assert self.height is not None
            return self.width, self.height
        if width <= height:
            return self.short_side, int(self.short_side * height / width)
        return int(self.short_side * width / height), self.short_side


@dataclass(frozen=True)
class Crop:
    """The centred square. Without padding its side is `size`; with padding the side is
    int(size / (size + padding) * min(width, height)) and the square is then resized to `size`."""

    size: int
    padding: int | None = None

    def __post_init__(self) -> None:
        _require_positive("crop", self.size)
        if self.padding is not None and (not isinstance(self.padding, int) or self.padding < 0):
            raise UsageError(f"crop.padding is {self.padding!r}; it must be an integer of at least 0")

    def side(self, width: int, height: int) -> int:
        """Side in pixels of the square that is cut out of an image of that size."""
        if self.padding is None:
            return self.size
        return int(self.size / (self.size + self.padding) * min(width, height))


@dataclass(frozen=True)
class Preprocess:
    """How an image becomes a model input: resize, crop, colour, (x / scale - mean) / std per channel, layout.

    mean, std: one value, or one per channel in the order of `color`. Raises UsageError on values outside the tables
    above. EXIF orientation is not applied and alpha is dropped, as the usual training pipelines do.
    """

    resize: Resize | None = None
    crop: Crop | None = None
    interpolation: str = "bilinear"
    color: str = "RGB"
    scale: float = 1.0
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    layout: str = "NCHW"

    def __post_init__(self) -> None:
        _require_one_of("interpolation", self.interpolation, INTERPOLATIONS)
        _require_one_of("color", self.color, tuple(COLORS))
        _require_one_of("layout", self.layout, LAYOUTS)
        channels = COLORS[self.color]
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in (1, channels) or not np.isfinite(values).all():
                raise UsageError(
                    f"{name} is {values}; it must hold 1 or {channels} finite numbers (color {self.color})"
                )
        if not (np.isfinite(self.scale) and self.scale > 0) or min(self.std) <= 0:
            raise UsageError(f"scale ({self.scale}) and std ({self.std}) must be positive and finite")

    @property
    def digest(self) -> str:
        """sha256 of the canonical JSON: equal recipes have equal digests."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    @property
    def raw(self) -> bool:
        """Whether pixel values come out as they went in, 0..255."""
        return self.scale == 1.0 and set(self.mean) == {0.0} and set(self.std) == {1.0}

    def to_json(self) -> str:
        """Canonical one-line JSON with the keys of the TOML file; absent resize and crop are left out."""
        document: dict[str, Any] = {}
        for key, value in asdict(self).items():
            if isinstance(value, dict):
                value = {name: entry for name, entry in value.items() if entry is not None}
            if value is not None:
                document[key] = value
        return json.dumps(document, sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Preprocess:
        """Inverse of to_json. Raises UsageError on text that is no such JSON."""
        try:
            document = json.loads(text)
        except ValueError as error:
            raise UsageError(f"preprocessing metadata is not JSON ({error}); give --preprocess") from error
        return cls.from_mapping(document, "preprocessing metadata")

    @classmethod
    def from_mapping(cls, document: Any, where: str) -> Preprocess:
        """From the keys of the TOML file. Raises UsageError, starting with `where`, on unknown keys or wrong values."""
        if not isinstance(document, Mapping):
            raise UsageError(f"{where}: expected keys and values, got {type(document).__name__}")
        try:
            _require_known_keys(document, cls)
            return cls(**{key: _PARSERS[key](value) for key, value in document.items()})
        except UsageError as error:
            raise UsageError(f"{where}: {error}") from error
        except (TypeError, ValueError) as error:
            raise UsageError(f"{where}: a value has the wrong type ({error})") from error

    def apply(self, image: np.ndarray | Image.Image) -> np.ndarray:
        """float32 [C, H, W] (layout NHWC: [H, W, C]) from a PIL image or uint8 RGB [H, W], [H, W, 1|3|4].

        (x / scale - mean) / std is computed in float64 for each of the 256 values and rounded once.
        Raises DataError when the image cannot be read as 8-bit pixels or is smaller than the crop.
        """
        pixels = self.pixels(image)
        table = _normalisation_table(self.scale, self.mean, self.std, COLORS[self.color])
        channels = [table[channel][pixels[..., channel]] for channel in range(pixels.shape[-1])]
        return np.stack(channels, axis=0 if self.layout == "NCHW" else -1)

    def pixels(self, image: np.ndarray | Image.Image) -> np.ndarray:
        """uint8 [H, W, C] after resize, crop and colour conversion, before normalisation."""
        if isinstance(image, np.ndarray):
            if self.resize is None and self.crop is None and image.ndim == 3 and image.dtype == np.uint8:
                if self.color == "RGB" and image.shape[-1] == 3:
                    return image
                if self.color == "BGR" and image.shape[-1] == 3:
                    return image[..., ::-1]
            picture = _picture_from_array(image)
        else:
            picture = _eight_bit(image)
        picture = picture.convert("L" if self.color == "L" else "RGB")
        pixels = np.asarray(self._crop(self._resize(picture)))
        if self.color == "L":
            return pixels[..., np.newaxis]
        return pixels[..., ::-1] if self.color == "BGR" else pixels

    def _resize(self, picture: Image.Image) -> Image.Image:
        if self.resize is None:
            return picture
        return self._resampled(picture, self.resize.size(*picture.size))

    def _crop(self, picture: Image.Image) -> Image.Image:
        if self.crop is None:
            return picture
        width, height = picture.size
        side = self.crop.side(width, height)
        if not 0 < side <= min(width, height):
            raise DataError(f"the image is {width}x{height}, too small for a crop of {self.crop.size}; add a resize")
        left, top = (width - side + 1) // 2, (height - side + 1) // 2
        square = picture.crop((left, top, left + side, top + side))
        return square if self.crop.padding is None else self._resampled(square, (self.crop.size, self.crop.size))

    def _resampled(self, picture: Image.Image, size: tuple[int, int]) -> Image.Image:
        from PIL import Image

        return picture if picture.size == size else picture.resize(size, Image.Resampling[self.interpolation.upper()])


def load_preprocess(name_or_path: str | Path) -> Preprocess:
    """A preset by name, or the recipe in a TOML file. Raises UsageError on an unknown preset or a bad file."""
    preset = PRESETS.get(str(name_or_path))
    if preset is not None:
        return preset
    path = Path(name_or_path)
    if path.suffix.lower() != ".toml":
        presets = ", ".join(PRESETS)
        raise UsageError(
            f"preprocessing {str(name_or_path)!r} is unknown; choose one of {presets}, or give a .toml file"
        )
    try:
        document = _toml().loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror}); give an existing .toml file") from error
    except ValueError as error:
        raise UsageError(f"{path}: not valid TOML ({error})") from error
    return Preprocess.from_mapping(document, str(path))


def _toml() -> Any:
    """The TOML reader: tomllib from Python 3.11 on, tomli before."""
    return importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")


def _numbers(value: Any) -> tuple[float, ...]:
    return tuple(float(entry) for entry in value) if isinstance(value, (list, tuple)) else (float(value),)


def _section(kind: type) -> Any:
    def parse(value: Any) -> Any:
        if not isinstance(value, Mapping):
            raise UsageError(f"{kind.__name__.lower()} must be a table, got {value!r}")
        _require_known_keys(value, kind)
        return kind(**value)

    return parse


_PARSERS: dict[str, Any] = {
    "resize": _section(Resize),
    "crop": _section(Crop),
    "interpolation": str,
    "color": str,
    "scale": float,
    "mean": _numbers,
    "std": _numbers,
    "layout": str,
}


def _require_known_keys(document: Mapping[str, Any], kind: type) -> None:
    known = [field.name for field in fields(kind)]
    unknown = sorted(set(document) - set(known))
    if unknown:
        raise UsageError(f"unknown key {', '.join(unknown)}; the keys are {', '.join(known)}")


def _require_one_of(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise UsageError(f"{name} {value!r} is unknown; choose one of {', '.join(choices)}")


def _require_positive(name: str, *values: int | None) -> None:
    for value in values:
        if value is not None and (not isinstance(value, int) or value < 1):
            raise UsageError(f"{name} holds {value!r}; sizes must be positive integers")


@functools.lru_cache(maxsize=16)
def _normalisation_table(scale: float, mean: tuple[float, ...], std: tuple[float, ...], channels: int) -> np.ndarray:
    """float32 [C, 256]: (v / scale - mean) / std for every pixel value v."""
    values = np.arange(256, dtype=np.float64)[np.newaxis, :] / scale
    table = (values - np.reshape(mean, (-1, 1))) / np.reshape(std, (-1, 1))
    return np.broadcast_to(table, (channels, 256)).astype(np.float32)


def _picture_from_array(image: np.ndarray) -> Image.Image:
    from PIL import Image

    if image.dtype != np.uint8 or image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[-1] not in (1, 3, 4)):
        raise DataError(f"an image must be uint8 [H, W] or [H, W, 1|3|4], got {image.dtype} {list(image.shape)}")
    single = image.ndim == 3 and image.shape[-1] == 1
    return Image.fromarray(np.ascontiguousarray(image[..., 0] if single else image))


def _eight_bit(picture: Image.Image) -> Image.Image:
    """16-bit grey becomes its high byte: Pillow's own conversion would clip it to white."""
    if not picture.mode.startswith("I;16"):
        return picture
    from PIL import Image

    return Image.fromarray((np.asarray(picture).astype(np.uint16) >> 8).astype(np.uint8))


IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

PRESETS: dict[str, Preprocess] = {
    "imagenet": Preprocess(
        resize=Resize(short_side=256), crop=Crop(224), scale=255.0, mean=IMAGENET_MEAN, std=IMAGENET_STD
    ),
    "efficientnet-lite": Preprocess(
        crop=Crop(224, padding=32), interpolation="bicubic", mean=(127.0,) * 3, std=(128.0,) * 3
    ),
    "cifar": Preprocess(scale=255.0, mean=IMAGENET_MEAN, std=IMAGENET_STD),
    "none": Preprocess(),
}
