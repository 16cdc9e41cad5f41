"""The two data sets of the demo: scikit-learn's bundled digits, and MNIST from IDX files."""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .errors import DemoError

DIGITS_TEST = 500  # of 1797 images: one image is 0.2 % of the test accuracy
GZIP_MAGIC = b"\x1f\x8b"
IDX_UINT8 = 8  # type code of the IDX format


class IdxError(DemoError):
    """A folder or a file that is not MNIST in the IDX format."""


class Data(NamedTuple):
    """Images as rows of float32 in [0, 1]; labels as integers from 0."""

    name: str
    train_images: NDArray[np.float32]
    train_labels: NDArray[np.intp]
    test_images: NDArray[np.float32]
    test_labels: NDArray[np.intp]

    @property
    def classes(self) -> int:
        return int(max(self.train_labels.max(), self.test_labels.max())) + 1


def load(folder: Path | None) -> Data:
    """MNIST from `folder`; without one, the digits that scikit-learn brings along."""
    return load_digits() if folder is None else load_mnist(folder)


def load_digits() -> Data:
    """1797 handwritten digits of 8 by 8 pixels, in 17 grey levels."""
    from sklearn import datasets

    images, labels = datasets.load_digits(return_X_y=True)
    # The set is ordered by writer. One shuffle for every seed, so that runs are judged on the same images.
    order = np.random.default_rng(0).permutation(len(images))
    scaled = images[order].astype(np.float32) / np.float32(16)
    return _split("scikit-learn's digits", scaled, labels[order].astype(np.intp), DIGITS_TEST)


def load_mnist(folder: Path) -> Data:
    """MNIST, or any set in its format, from the IDX files in `folder`, gzipped or not.

    With one pair of files (images and labels) the first four fifths train and the rest tests; with two, the
    pair named `train` trains.
    """
    pairs = find_pairs(folder)
    loaded = {name: _read_pair(*paths) for name, paths in sorted(pairs.items())}
    name = f"MNIST ({folder})"
    if len(loaded) == 1:
        ((images, labels),) = loaded.values()
        if len(images) < 5:
            raise IdxError(f"{folder}: expected 5 images or more, to train and test, got {len(images)}")
        return _split(name, images, labels, len(images) // 5)
    training = [key for key in loaded if "train" in key]
    if len(loaded) != 2 or len(training) != 1:
        raise IdxError(
            f"{folder}: expected one pair of files, or two of which one is named 'train', "
            f"got {', '.join(sorted(path.name for path, _ in pairs.values()))}"
        )
    train = loaded.pop(training[0])
    (test,) = loaded.values()
    if train[0].shape[1] != test[0].shape[1]:
        raise IdxError(
            f"{folder}: images to train and to test on must have one size, "
            f"got {train[0].shape[1]} and {test[0].shape[1]} pixels"
        )
    return Data(name, *train, *test)


def find_pairs(folder: Path) -> dict[str, tuple[Path, Path]]:
    """Pairs (images, labels) of IDX files, by their common name: `t10k-images-idx3-ubyte.gz` and the like."""
    if not folder.is_dir():
        raise IdxError(
            f"{folder}: expected a folder of IDX files, "
            f"got {'a file' if folder.exists() else 'a path that does not exist'}"
        )
    images: dict[str, Path] = {}
    labels: dict[str, Path] = {}
    # Sorted, so that an unpacked file comes before, and then stands instead of, its .gz twin.
    for path in sorted(path for path in folder.iterdir() if path.is_file()):
        name = path.name.lower().removesuffix(".gz")
        if "images" in name and "idx" in name:
            images.setdefault(name.replace("images", "*").replace("idx3", "idx"), path)
        elif "labels" in name and "idx" in name:
            labels.setdefault(name.replace("labels", "*").replace("idx1", "idx"), path)
    pairs = {name: (images[name], labels[name]) for name in images.keys() & labels.keys()}
    if not pairs:
        seen = ", ".join(sorted(path.name for path in [*images.values(), *labels.values()])) or "neither"
        raise IdxError(
            f"{folder}: expected IDX files named like t10k-images-idx3-ubyte and "
            f"t10k-labels-idx1-ubyte (.gz or not), got {seen}"
        )
    return pairs


def read_idx(path: Path, rank: int) -> NDArray[np.uint8]:
    """The array of bytes in an IDX file, gzipped or not.

    The format: two zero bytes, the type code, the rank, each extent as a big-endian 32-bit integer, the data.
    """
    try:
        raw = path.read_bytes()
        if raw.startswith(GZIP_MAGIC):
            raw = gzip.decompress(raw)
    except (OSError, EOFError, zlib.error) as error:
        raise IdxError(f"{path}: cannot be read: {error}") from error
    head = 4 + 4 * rank
    if len(raw) < head or raw[:2] != b"\0\0":
        raise IdxError(
            f"{path}: expected an IDX file, got {len(raw)} bytes that begin with 0x{raw[:4].hex()}"
        )
    if (raw[2], raw[3]) != (IDX_UINT8, rank):
        raise IdxError(
            f"{path}: expected IDX type {IDX_UINT8} (bytes) of rank {rank}, "
            f"got type {raw[2]} of rank {raw[3]}"
        )
    shape = tuple(int(extent) for extent in np.frombuffer(raw[4:head], ">u4"))
    if len(raw) - head != math.prod(shape):
        raise IdxError(
            f"{path}: expected {math.prod(shape)} bytes of data for shape {shape}, got {len(raw) - head}"
        )
    return np.frombuffer(raw, np.uint8, offset=head).reshape(shape)


def _read_pair(image_path: Path, label_path: Path) -> tuple[NDArray[np.float32], NDArray[np.intp]]:
    images, labels = read_idx(image_path, rank=3), read_idx(label_path, rank=1)
    if len(images) != len(labels):
        raise IdxError(
            f"{label_path}: expected {len(images)} labels, as many as "
            f"{image_path.name} has images, "
            f"got {len(labels)}"
        )
    if images.size == 0:
        raise IdxError(f"{image_path}: expected images, got an array of shape {images.shape}")
    return images.reshape(len(images), -1).astype(np.float32) / np.float32(255), labels.astype(np.intp)


def _split(name: str, images: NDArray[np.float32], labels: NDArray[np.intp], test: int) -> Data:
    return Data(name, images[:-test], labels[:-test], images[-test:], labels[-test:])
