"""The demo's data: MNIST files in their spellings, and a clear word about every file that is none."""

import gzip
import struct

import numpy as np
import pytest

from bnkern.cli.demo import data


def idx(array, code=8):
    array = np.asarray(array, np.uint8)
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, code, array.ndim, *array.shape) + array.tobytes()


def images_of(count, side=4):
    return np.arange(count * side * side).reshape(count, side, side) % 251


def labels_of(count):
    return np.arange(count) % 3


def write_pair(folder, count, name="t10k", suffix="", side=4):
    pack = gzip.compress if suffix else bytes
    (folder / f"{name}-images-idx3-ubyte{suffix}").write_bytes(pack(idx(images_of(count, side))))
    (folder / f"{name}-labels-idx1-ubyte{suffix}").write_bytes(pack(idx(labels_of(count))))


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_one_pair_is_split_in_four_fifths_and_one(tmp_path, suffix):
    write_pair(tmp_path, 50, suffix=suffix)
    loaded = data.load(tmp_path)
    assert loaded.train_images.shape == (40, 16)
    assert loaded.test_images.shape == (10, 16)
    assert loaded.classes == 3
    everything = np.concatenate([loaded.train_images, loaded.test_images])
    np.testing.assert_array_equal(
        everything, images_of(50).reshape(50, 16).astype(np.float32) / np.float32(255)
    )
    np.testing.assert_array_equal(np.concatenate([loaded.train_labels, loaded.test_labels]), labels_of(50))
    assert loaded.train_images.dtype == np.float32


def test_two_pairs_train_and_test(tmp_path):
    write_pair(tmp_path, 30, "train", ".gz")
    write_pair(tmp_path, 20, "t10k")
    loaded = data.load(tmp_path)
    assert (len(loaded.train_labels), len(loaded.test_labels)) == (30, 20)


def test_other_spellings_of_the_names(tmp_path):
    (tmp_path / "Train-Images.idx3-ubyte").write_bytes(idx(images_of(10)))
    (tmp_path / "Train-Labels.idx1-ubyte.gz").write_bytes(gzip.compress(idx(labels_of(10))))
    (tmp_path / "README").write_text("not data")
    assert len(data.load(tmp_path).test_labels) == 2


def test_unpacked_file_stands_before_its_gzipped_twin(tmp_path):
    write_pair(tmp_path, 10)
    write_pair(tmp_path, 20, suffix=".gz")
    assert len(data.load(tmp_path).train_labels) == 8


IMAGES, LABELS = "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"
GOOD = {IMAGES: idx(images_of(10)), LABELS: idx(labels_of(10))}


@pytest.mark.parametrize(
    ("files", "told"),
    [
        ({}, "named like t10k-images-idx3-ubyte .* got neither"),
        ({IMAGES: GOOD[IMAGES]}, f"got {IMAGES}"),
        (GOOD | {IMAGES: b""}, f"{IMAGES}: expected an IDX file, got 0 bytes"),
        (GOOD | {IMAGES: b"<html>not found</html>"}, "begin with 0x3c68746d"),
        (GOOD | {LABELS: GOOD[LABELS][:-1]}, r"expected 10 bytes of data for shape \(10,\), got 9"),
        (GOOD | {LABELS: GOOD[LABELS] + b"0"}, "got 11"),
        (GOOD | {IMAGES: struct.pack(">4B3I", 0, 0, 8, 3, *[2**32 - 1] * 3)}, "expected 79228162458924105"),
        (GOOD | {IMAGES: idx(images_of(10), code=13)}, "type 8 .* of rank 3, got type 13 of rank 3"),
        (GOOD | {IMAGES: GOOD[LABELS] + bytes(20)}, "got type 8 of rank 1"),
        (GOOD | {LABELS: idx(labels_of(9))}, f"expected 10 labels, as many as {IMAGES} has images, got 9"),
        (GOOD | {IMAGES: gzip.compress(GOOD[IMAGES])[:-20]}, "cannot be read"),
        (GOOD | {IMAGES: b"\x1f\x8b" + bytes(40)}, "cannot be read"),
        (GOOD | {IMAGES: gzip.compress(GOOD[IMAGES])[:20] + bytes(60)}, "cannot be read"),
        ({IMAGES: idx(images_of(0)), LABELS: idx(labels_of(0))}, "expected images, got"),
        ({IMAGES: idx(images_of(4)), LABELS: idx(labels_of(4))}, "expected 5 images or more"),
        (GOOD | {n.replace("t10k", "dev"): v for n, v in GOOD.items()}, "one is named 'train'"),
    ],
)
def test_unusable_files_are_named(tmp_path, files, told):
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(data.IdxError, match=told) as caught:
        data.load(tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_images_of_two_sizes(tmp_path):
    write_pair(tmp_path, 10, "train", side=4)
    write_pair(tmp_path, 10, "t10k", side=5)
    with pytest.raises(data.IdxError, match="one size, got 16 and 25 pixels"):
        data.load(tmp_path)


def test_what_is_no_folder(tmp_path):
    with pytest.raises(data.IdxError, match="does not exist"):
        data.load(tmp_path / "nowhere")
    (tmp_path / "file").touch()
    with pytest.raises(data.IdxError, match="got a file"):
        data.load(tmp_path / "file")


def test_digits():
    digits = data.load(None)
    assert (len(digits.train_labels), len(digits.test_labels), digits.classes) == (1297, 500, 10)
    assert digits.train_images.dtype == np.float32
    assert (digits.train_images.min(), digits.train_images.max()) == (0, 1)
    assert np.bincount(digits.test_labels).min() > 30
