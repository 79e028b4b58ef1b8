"""Images as a source of samples: a folder of files, or a .npz with `images`. Decoding runs ahead in one thread."""

from __future__ import annotations

import csv
import hashlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from quantkit.errors import DataError, UsageError
from quantkit.load.specs import TensorSpec
from quantkit.observe.batches import Batch, make_item, shape_fits
from quantkit.observe.preprocess import Preprocess

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
READ_AHEAD = 8
"""Decoded images that may wait: hides decoding behind inference, a few MB at 224 x 224."""


class ImageSource:
    """Samples from pictures that can be opened by index. `open_picture` gives what Preprocess.apply takes."""

    single_rows = True

    def __init__(
        self,
        names: Sequence[str],
        open_picture: Callable[[int], object],
        content: Callable[[int], bytes],
        labels: np.ndarray | None,
        spec: TensorSpec,
        preprocess: Preprocess,
        strict: bool,
        warn: Callable[[str], None],
    ) -> None:
        self.names, self.labels, self.spec, self.preprocess = names, labels, spec, preprocess
        self._open, self._content, self._strict, self._warn = open_picture, content, strict, warn
        self._skipped: set[int] = set()

    @property
    def count(self) -> int:
        """Samples before corrupt ones are skipped."""
        return len(self.names)

    @property
    def has_labels(self) -> bool:
        """Whether every sample has a class index."""
        return self.labels is not None

    def select(self, indices: Sequence[int]) -> ImageSource:
        """The same source over a subset, in the order given."""
        chosen = list(indices)
        labels = None if self.labels is None else self.labels[chosen]
        return ImageSource(
            [self.names[index] for index in chosen],
            lambda index: self._open(chosen[index]),
            lambda index: self._content(chosen[index]),
            labels,
            self.spec,
            self.preprocess,
            self._strict,
            self._warn,
        )

    def contents(self) -> Iterator[bytes]:
        """What the digest is made of: the bytes of every file, or of every image of an array."""
        return (self._content(index) for index in range(self.count))

    def items(self) -> Iterator[Batch]:
        """One sample an item. A corrupt image is skipped with a warning that names it; strict: DataError."""
        found = 0
        for index, result in enumerate(_run_ahead(self._load, self.count)):
            if isinstance(result, _Corrupt):
                self._report(index, result.reason)
                continue
            found += 1
            yield result
        if not found:
            raise DataError(f"none of the {self.count} images could be read; the first is {self.names[0]}")

    def _report(self, index: int, reason: str) -> None:
        message = f"{self.names[index]}: the image cannot be decoded ({reason})"
        if self._strict:
            raise DataError(f"{message}; remove it, or leave out --strict to skip it")
        if index not in self._skipped:
            self._skipped.add(index)
            self._warn(f"{message}; skipped")

    def _load(self, index: int) -> Batch | _Corrupt:
        name = self.names[index]
        try:
            picture = self._open(index)
        except Exception as error:  # decoders raise OSError, SyntaxError, ValueError, zlib and struct errors
            return _Corrupt(str(error) or type(error).__name__)
        try:
            pixels = self.preprocess.apply(picture)  # type: ignore[arg-type]
        except DataError as error:
            raise DataError(f"{name}: {error}") from error
        self._require_size(pixels, name)
        label = None if self.labels is None else self.labels[index : index + 1]
        if self.spec.dtype.kind in "iu" and self.preprocess.raw:
            pixels = pixels.astype(self.spec.dtype)
        return make_item(pixels[np.newaxis], [self.spec], name, label)

    def _require_size(self, pixels: np.ndarray, name: str) -> None:
        wanted = self.spec.shape[1:]
        if not wanted or shape_fits(pixels.shape, wanted):
            return
        axis = 1 if self.preprocess.layout == "NCHW" else 0
        got = f"{pixels.shape[axis + 1]}x{pixels.shape[axis]} in {self.preprocess.layout}"
        raise DataError(
            f"{name}: wrong image size for a static-shape model: it is {got} after preprocessing (width x height, "
            f"{list(pixels.shape)}), input {self.spec.name!r} needs {list(wanted)}; resize or crop with --preprocess"
        )


@dataclass(frozen=True)
class _Corrupt:
    """An image that could not be decoded, and why."""

    reason: str


def _run_ahead(load: Callable[[int], Batch | _Corrupt], count: int) -> Iterator[Batch | _Corrupt]:
    """load(0), load(1)... in order, computed at most READ_AHEAD ahead in another thread."""
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="quantkit-decode") as pool:
        waiting: deque[Future[Batch | _Corrupt]] = deque()
        try:
            for index in range(count):
                waiting.append(pool.submit(load, index))
                if len(waiting) == READ_AHEAD:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def find_images(folder: Path) -> list[Path]:
    """Images in a folder and below, sorted by relative path; hidden files and folders are left out."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in IMAGE_SUFFIXES
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )


def folder_source(
    folder: Path,
    spec: TensorSpec,
    preprocess: Preprocess,
    labels_file: str | Path | None,
    strict: bool,
    warn: Callable[[str], None],
) -> ImageSource:
    """The images of a folder with labels from --labels, a labels.csv in it or in its parent, or class sub-folders.

    With a CSV, images it does not list are left out with a warning (strict: DataError).
    """
    files = find_images(folder)
    if not files:
        raise DataError(f"{folder}: holds no images ({', '.join(IMAGE_SUFFIXES)}), .npz files or test_data_set folders")
    labels = _labels(folder, files, labels_file)
    if labels is not None:
        files = _labelled_only(folder, files, labels, strict, warn)
    classes = None if labels is None else np.array([labels[file] for file in files], dtype=np.int64)
    return ImageSource(
        [file.relative_to(folder).as_posix() for file in files],
        lambda index: _decode(files[index]),
        lambda index: files[index].read_bytes(),
        classes,
        spec,
        preprocess,
        strict,
        warn,
    )


def array_source(
    images: np.ndarray, labels: np.ndarray | None, name: str, spec: TensorSpec, preprocess: Preprocess
) -> ImageSource:
    """The images of a uint8 [N, H, W] or [N, H, W, C] array."""
    if len(images) == 0:
        raise DataError(f"{name}: 'images' is empty; give at least one image")
    if labels is not None and (len(labels) != len(images) or labels.ndim != 1 or labels.dtype.kind not in "iu"):
        raise DataError(
            f"{name}: 'labels' must be {len(images)} class indices, got {labels.dtype} {list(labels.shape)}"
        )
    header = f"{images.dtype}{images.shape[1:]}".encode()
    return ImageSource(
        [f"{name}[{index}]" for index in range(len(images))],
        lambda index: images[index],
        lambda index: header + images[index].tobytes(),
        None if labels is None else labels.astype(np.int64),
        spec,
        preprocess,
        True,
        lambda message: None,
    )


def digest_of(contents: Iterator[bytes]) -> str:
    """sha256 over the sha256 of every piece, so that pieces cannot be shifted into each other."""
    total = hashlib.sha256()
    for content in contents:
        total.update(hashlib.sha256(content).digest())
    return total.hexdigest()


def read_label_column(path: Path) -> list[tuple[str, int]]:
    """(file, class_index) of every row of a CSV. Raises UsageError when it cannot be read or a column is missing."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            rows = list(csv.DictReader(stream))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or error
        raise UsageError(
            f"{path}: labels cannot be read ({reason}); give a CSV with columns file,class_index"
        ) from error
    if not rows or "class_index" not in rows[0]:
        raise UsageError(f"{path}: no rows with a column class_index; a labels file has the columns file,class_index")
    try:
        return [(row.get("file") or "", int(row["class_index"])) for row in rows]
    except (TypeError, ValueError) as error:
        raise UsageError(f"{path}: class_index must be an integer ({error})") from error


def _decode(path: Path) -> object:
    from PIL import Image

    with Image.open(path) as picture:
        picture.load()
        return picture


def _labels(folder: Path, files: list[Path], labels_file: str | Path | None) -> dict[Path, int] | None:
    if labels_file is not None:
        labels = _from_csv(Path(labels_file), files)
        if not labels:
            raise UsageError(f"{labels_file}: names none of the images in {folder}; `file` is relative to the CSV")
        return labels
    for place in (folder, folder.absolute().parent):
        table = place / "labels.csv"
        if table.is_file():
            labels = _from_csv(table, files)
            if labels:
                return labels
    return _from_class_folders(folder, files)


def _from_csv(table: Path, files: list[Path]) -> dict[Path, int]:
    by_path = {(table.parent / file).resolve(): index for file, index in read_label_column(table)}
    found = {file: by_path.get(file.resolve()) for file in files}
    return {file: index for file, index in found.items() if index is not None}


def _from_class_folders(folder: Path, files: list[Path]) -> dict[Path, int] | None:
    """Class indices from the sub-folder names: the numbers they are, or else their place in sorted order."""
    names = sorted({file.parent.name for file in files})
    if len(names) < 2 or any(file.parent.parent != folder for file in files):
        return None
    indices = {name: int(name) if all(map(str.isdecimal, names)) else place for place, name in enumerate(names)}
    return {file: indices[file.parent.name] for file in files}


def _labelled_only(
    folder: Path, files: list[Path], labels: dict[Path, int], strict: bool, warn: Callable[[str], None]
) -> list[Path]:
    labelled = [file for file in files if file in labels]
    left_out = [file for file in files if file not in labels]
    if left_out:
        many = "1 image has" if len(left_out) == 1 else f"{len(left_out)} images have"
        message = f"{folder}: {many} no label, the first is {left_out[0].name}"
        if strict:
            raise DataError(f"{message}; add them to the labels file, or leave out --strict to skip them")
        warn(f"{message}; left out")
    return labelled
