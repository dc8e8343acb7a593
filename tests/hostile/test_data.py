"""Archives and folders as they come: the right value, or an error by name."""

import gzip
import io
import struct
import warnings
import zipfile
import zlib

import numpy as np
import pytest
from PIL import Image

from kljax.data import load
from kljax.errors import DataError

RNG = np.random.default_rng(0)
X = RNG.integers(0, 256, (6, 8, 8, 3), dtype=np.uint8)
X[0, 0, 0] = 0, 128, 255
G = X[..., 0]
Y = np.array([0, 1, 2, 0, 1, 2])
UNIT = X / 255
BINARY = (G > 127).astype(np.int64)


def npz(**arrays):
    return lambda folder: np.savez(folder / "a.npz", **arrays) or folder / "a.npz"


def member(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def promising(*shape):
    """The head of an array of bytes, and nothing after it."""
    file = io.BytesIO()
    head = {"descr": "|u1", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, head)
    return file.getvalue()


def zipped(*members):
    def make(folder):
        with warnings.catch_warnings(), zipfile.ZipFile(folder / "a.npz", "w") as file:
            warnings.simplefilter("ignore")  # of names that occur twice
            for name, content in members:
                file.writestr(name, content)
        return folder / "a.npz"

    return make


def idx(array, kind=8):
    head = struct.pack(f">BBBB{array.ndim}I", 0, 0, kind, array.ndim, *array.shape)
    return head + array.tobytes()


def fill(folder, contents):
    """Writes files by name; arrays are saved as images."""
    for name, content in contents.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            file.write_bytes(content)
        else:
            Image.fromarray(content).save(file)


def picture(array, kind="PNG", mode="", **options):
    file, image = io.BytesIO(), Image.fromarray(array)
    image.convert(mode or image.mode).save(file, kind, **options)
    return file.getvalue()


def deep_png(color, channels):
    """A PNG of 16 bits per channel, from the description of the format."""
    rows = (b"\0" + bytes(range(16 * channels))) * 8
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", 8, 8, 16, color, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data))
        + name
        + data
        + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )


def is_data(images=X, labels=Y, levels=256, split="all", classes=None):
    """What must come out of the reader."""

    def check(path):
        found = load(path, split=split)
        expected = images[..., None] if images.ndim == 3 else images
        np.testing.assert_array_equal(found.images, expected)
        assert found.levels == levels
        if labels is None:
            assert found.labels is None
        else:
            np.testing.assert_array_equal(found.labels, labels)
            assert found.num_classes == (classes or max(labels) + 1)

    return check


def both(*checks):
    return lambda path: [check(path) for check in checks]


MED = {
    "train_images": G[:3],
    "train_labels": Y[:3, None],
    "val_images": G[3:5],
    "val_labels": Y[3:5, None],
    "test_images": G[5:],
    "test_labels": Y[5:, None],
}
MED_SPLITS = both(
    is_data(G[:3], Y[:3], split="train", classes=3),
    is_data(G[3:5], Y[3:5], split="val", classes=3),
    is_data(G[5:], Y[5:], split="test", classes=3),
    is_data(G, Y),
)
KERAS = {"x_train": X[:4], "y_train": Y[:4], "x_test": X[4:], "y_test": Y[4:]}
QMNIST = np.column_stack([Y, RNG.integers(0, 99, (6, 7))]).astype(">i4")

ARRAYS = {
    "images, y": (npz(images=X, y=Y), is_data()),
    "x, label": (npz(x=X, label=Y.astype(">i8")), is_data()),
    "data, targets": (npz(data=np.asfortranarray(X), targets=Y), is_data()),
    "keras": (npz(**KERAS), is_data()),
    "medmnist": (npz(**MED), MED_SPLITS),
    "capitals": (
        npz(X_Train=X[:4], Y_Train=Y[:4], testX=X[4:], testY=Y[4:]),
        is_data(),
    ),
    "booleans": (npz(images=G > 127, y=Y > 0), is_data(BINARY, Y > 0, 2, classes=2)),
    "zeros and ones": (npz(images=BINARY, y=Y), is_data(BINARY, levels=2)),
    "said levels": (npz(images=G % 16, y=Y, levels=16), is_data(G % 16, levels=16)),
    "said to be dark": (npz(images=G % 16, y=Y, levels=256), is_data(G % 16)),
    "big-endian": (npz(images=X.astype(">i2"), y=Y), is_data()),
    "whole floats": (npz(images=X.astype(float), y=Y), is_data()),
    "float below 0": (npz(images=np.where(X == 0, -1e-9, UNIT), y=Y), is_data()),
    "float above 1": (npz(images=np.where(X == 255, 1 + 1e-6, UNIT), y=Y), is_data()),
    "float beyond -1": (npz(images=(2 + 1e-6) * UNIT - 1 - 1e-7, y=Y), is_data()),
    "said classes": (
        npz(images=X, y=Y * 99, num_classes=500),
        is_data(X, Y * 99, classes=500),
    ),
    "a sample of ten classes": (
        npz(images=X, y=[9, 3, 3, 0, 3, 9]),
        is_data(labels=[9, 3, 3, 0, 3, 9]),
    ),
    "samples of ten classes": (
        npz(**KERAS | {"y_train": [1, 2, 2, 9], "y_test": [4, 9]}),
        is_data(labels=[1, 2, 2, 9, 4, 9]),
    ),
    "apple's members": (
        zipped(("images.npy", member(X)), ("__MACOSX/._images.npy", b"\0\5\x16\7")),
        is_data(X, None),
    ),
    "extra array": (npz(images=X, y=Y, weights=Y), r"weights \(int64 \[6\]\)"),
    "labels of nothing": (npz(images=X, y_test=Y), "Without use: y_test"),
    "two of a kind": (npz(images=X, x=X), "images and x both look like the images"),
    "folded names": (npz(a_images=X), "Without use: a_images"),
    "one-hot": (npz(images=X, y=np.eye(6, dtype=int)), r"a.npz: y: .*argmax"),
    "many labels": (npz(images=X, y=np.ones((6, 14), int)), "the one column"),
    "float labels": (npz(images=X, y=Y * 1.0), r"save labels.astype\('int32'\)"),
    "part labels": (npz(images=X, y=Y + 0.5), "leave them out"),
    "NaN labels": (npz(images=X, y=Y * np.nan), "6 are not finite"),
    "text labels": (npz(images=X, y=Y.astype(str)), "return_inverse=True"),
    "one label": (npz(images=X, y=3), r"labels are int64 \[\]"),
    "wrapping label": (npz(images=X, y=Y - 2**32), "label -4294967296"),
    "label gaps": (npz(images=X, y=Y * 1000), "up to 2000 would be 2,001 classes"),
    "small gaps": (npz(images=X, y=Y * 10), "up to 20 would be 21 classes"),
    "huge label": (npz(images=X, y=Y * 5_000_000), "10,000,001 classes, and 3 of"),
    "beyond said": (npz(images=X, y=Y, num_classes=2), "label 2 among 2 classes"),
    "from 1": (
        npz(images=X, y=Y + 1),
        r"1 .. 3 and none is 0.*labels - 1.*num_classes=4",
    ),
    "from 1, all splits": (
        npz(**KERAS | {"y_train": [1, 2, 1, 2], "y_test": [2, 1]}),
        "labels are 1 .. 2 and none is 0, so 2 classes numbered from 1, or 3",
    ),
    "from 1, by chance": (
        npz(images=X, y=[1, 2, 3, 3, 1, 3]),
        is_data(labels=[1, 2, 3, 3, 1, 3]),
    ),
    "from 1, as said": (
        npz(images=X, y=Y + 1, num_classes=4),
        is_data(labels=Y + 1, classes=4),
    ),
    "unseen label": (
        npz(**KERAS | {"y_train": [0, 1, 0, 1], "y_test": Y[4:]}),
        "label 2 occurs in test and never in train",
    ),
    "other labels": (npz(**KERAS | {"y_test": [3, 4]}), "label 3 occurs in test and"),
    "16 levels": (npz(images=G % 16, y=Y), "largest .* is 15 of 255.* levels=16"),
    "17 levels": (npz(images=(G % 17).astype(float)), "is 16 of 255"),
    "percent": (npz(images=(G % 101).astype(int)), "is 100 of 255.*levels=101"),
    "twice divided": (npz(images=UNIT / 255), "largest of all pixels"),
    "overshoot": (npz(images=UNIT - 0.01), "images holds .* between -0.01"),
    "NaN": (npz(images=np.where(X == 0, np.nan, UNIT)), "finite floats"),
    "infinite": (npz(images=np.where(X == 0, -np.inf, UNIT)), "between -inf"),
    "parts differ": (npz(**KERAS | {"x_test": UNIT[4:]}), "x_train are .* x_test as"),
    "a part above -0.5": (
        npz(x_train=2 * UNIT[:4] - 1, x_test=2 * (UNIT[4:] * 0.7 + 0.3) - 1),
        is_data(np.concatenate([X[:4], np.rint(X[4:] * 0.7 + 76.5)]), None),
    ),
    "all above -0.5": (
        npz(x_train=1.4 * UNIT[:4] - 0.4, x_test=1.4 * UNIT[4:] - 0.4),
        r"x_train holds .* -0.4 and 1, .* in \[-1, 1\] and some below -0.5",
    ),
    "a part in [0, 1]": (
        npz(x_train=2 * UNIT[:4] - 1, x_test=UNIT[4:]),
        r"x_train are read as floats in \[-1, 1\].*x_test as floats in \[0, 1\]",
    ),
    "constant": (npz(images=X * 0 + 7, levels=9), "every pixel of every image is 7"),
    "complex": (npz(images=X * 1j), "kind c"),
    "dates": (npz(images=G.astype("M8[D]")), "kind M"),
    "records": (npz(images=np.zeros((3, 8, 8), [("a", int)])), "kind V"),
    "one number": (npz(images=5), r"images is int64 \[\], expected images"),
    "rows of pixels": (npz(x=X.reshape(6, -1), y=Y), r"x is .*expected images \[n, h"),
    "half of [-1, 1]": (npz(images=UNIT - 0.5, y=Y), "undo their normalization"),
    "of mean 0": (npz(images=(UNIT - 0.1) / 0.3, y=Y), "undo their normalization"),
    "16 bits": (npz(images=X.astype("u2") * 257, y=Y), "save images / n with n the"),
    "dark and all the same": (npz(images=np.full_like(X, 7)), "every pixel of every"),
    "pickled": (npz(images=np.array([None])), "without unpickling"),
    "nothing": (npz(), r"holds \[\]"),
    "no rows": (npz(images=X[:0], y=Y[:0]), "no images in images"),
    "a pixel each": (npz(images=X[:, :1, :1]), "1 x 1, expected squares"),
    "other member": (zipped(("images.npy", member(X)), ("a.txt", b"")), "a.txt is no"),
    "promises": (zipped(("images.npy", promising(10**13, 8, 8))), "memory|cannot be"),
    "member twice": (zipped(*[("images.npy", member(X))] * 2), "holds images twice"),
    "foreign manifest": (npz(images=X, manifest="[1]"), "manifest is no table"),
}

EMNIST = {
    "emnist-letters-train-images-idx3-ubyte.gz": gzip.compress(idx(G[:4])),
    "emnist-letters-train-labels-idx1-ubyte.gz": gzip.compress(idx(np.uint8(Y[:4]))),
    "emnist-letters-test-images-idx3-ubyte": idx(G[4:]),
    "emnist-letters-test-labels-idx1-ubyte": idx(np.uint8(Y[4:])),
    "emnist-letters-mapping.txt": b"1 65 97",
}
ONE = {"train-images.idx3-ubyte": idx(G), "train-labels.idx1-ubyte": idx(np.uint8(Y))}
GRAY = G[0]
TWO = {"train/a/1.png": G[0], "train/b/1.png": G[1]}
HIDDEN = {".DS_Store": b"", "Thumbs.db": b"", "__MACOSX/._a.png": b"", "._a.png": b""}

FOLDERS = {
    "emnist": (EMNIST, is_data(G, Y)),
    "qmnist": (
        {
            "qmnist-test-images-idx3-ubyte": idx(G),
            "qmnist-test-labels-idx2-int": idx(QMNIST, 12),
        },
        is_data(G),
    ),
    "dots": (ONE, is_data(G)),
    "dots and gz": (
        ONE | {f"{x}.gz": gzip.compress(y) for x, y in ONE.items()},
        is_data(G),
    ),
    "eight columns": (
        {"a-images-idx3-ubyte": idx(G), "a-labels-idx2-int": idx(QMNIST, 12)},
        r"labels are >i4 \[6, 8\]",
    ),
    "another .gz": (
        ONE | {"train-images.idx3-ubyte.gz": idx(G[::-1])},
        "differs from train-images",
    ),
    "two data sets": (
        ONE | {"x-train-images-idx3-ubyte": idx(G)},
        "both look like the",
    ),
    "labels alone": (
        ONE | {"test-labels-idx1-ubyte": idx(np.uint8(Y))},
        "no images test",
    ),
    "archives": ({"train.npz": b"", "test.npz": b""}, "but test.npz, train.npz"),
    "table beside": (ONE | {"train.csv": b""}, "train.csv: is not used"),
    "folder beside": (ONE | {"more/a.png": GRAY}, "more: is not used"),
    "bits as bytes": (
        {"train-images-idx3-ubyte": idx(np.uint8(BINARY))},
        is_data(BINARY, None, 2),
    ),
    "few levels": ({"train-images-idx3-ubyte": idx(G % 16)}, "is 15 of 255"),
    "train, val": (
        TWO | {"val/a/1.png": G[2], "val/b/1.png": G[3]},
        both(
            is_data(G[2:4], [0, 1], split="test"),
            is_data(G[2:4], [0, 1], split="val"),
            is_data(G[:2], [0, 1], split="train"),
            is_data(G[:4], [0, 1, 0, 1]),
        ),
    ),
    "train, Validation, testing": (
        {"train/1.png": G[0], "Validation/1.png": G[1], "testing/1.png": G[2]},
        both(is_data(G[1:2], None, split="val"), is_data(G[:3], None)),
    ),
    "no val": (
        TWO | {"test/a/1.png": G[2], "test/b/1.png": G[3]},
        (
            lambda path: load(path, split="val"),
            r'no val. Remedy: ask for split="test"',
        ),
    ),
    "val twice": (TWO | {"val/1.png": GRAY, "valid/1.png": GRAY}, "both name the val"),
    "val alone beside test": (
        {"val/1.png": GRAY, "test/1.png": GRAY},
        "expected train",
    ),
    "split and class": (TWO | {"extra/1.png": GRAY}, "if train is a split, extra in"),
    "a class called train": (
        {"car/1.png": G[0], "train/1.png": G[1]},
        is_data(G[:2], [0, 1]),
    ),
    "image beside splits": (TWO | {"1.png": GRAY}, "1.png: is not used"),
    "class missing in val": (
        TWO | {"val/a/1.png": GRAY},
        is_data(G[[0, 1, 0]], [0, 1, 0], classes=2),
    ),
    "class missing in train": (
        TWO | {"val/a/1.png": GRAY, "val/c/1.png": GRAY},
        r"train and val differ in the classes \['c'\]",
    ),
    "masks": (
        {"images/1.png": GRAY, "masks/1.png": GRAY},
        "images, masks are no classes. Remedy: give the folder of the images",
    ),
    "raw below": (
        {f"MNIST/raw/{x}": y for x, y in ONE.items()},
        "Remedy: give .*MNIST/raw, or",
    ),
    "splits below": ({f"all/{x}": y for x, y in TWO.items()}, "give .*/all, or"),
    "hidden files": (HIDDEN | {"a.png": GRAY, "README.md": b""}, is_data(G[:1], None)),
    "table of labels": ({"a.png": GRAY, "labels.csv": b""}, "labels.csv: is not used"),
    "list of labels": ({"a.png": GRAY, "labels.txt": b""}, "labels.txt: is not used"),
    "gif": ({"a.png": GRAY, "b.gif": b""}, "b.gif: is not used"),
    "gif inside": ({"a.png": picture(GRAY, "GIF")}, "cannot be read as"),
    "animated": (
        {
            "a.png": picture(
                GRAY,
                save_all=True,
                append_images=[Image.fromarray(G[1])],
            )
        },
        "a.png: holds 2 pictures",
    ),
    "16-bit gray": ({"a.png": deep_png(0, 1)}, "a.png: more than 8 bits.* // 257"),
    "16-bit color": ({"a.png": deep_png(2, 3)}, "a.png: more than 8 bits"),
    "16-bit gray, alpha": ({"a.png": deep_png(4, 2)}, "a.png: more than 8 bits"),
    "16-bit color, alpha": ({"a.png": deep_png(6, 4)}, "a.png: more than 8 bits"),
    "opaque palette": (
        {"a.png": picture(GRAY, mode="P", transparency=b"\xff" * 256)},
        is_data(np.stack([G[:1]] * 3, -1), None),
    ),
    "transparent palette": (
        {"a.png": picture(GRAY, mode="P", transparency=b"\0" * 256)},
        "a.png: has transparent pixels",
    ),
    "transparent shade": (
        {"a.png": picture(GRAY, transparency=int(GRAY[0, 0]))},
        "a.png: has transparent pixels",
    ),
    "bits": ({"a.png": picture(BINARY[0] > 0)}, is_data(255 * BINARY[:1], None)),
}


def check(path, expected):
    read = is_data()
    if isinstance(expected, tuple):
        read, expected = expected
    if callable(expected):
        expected(path)
        return
    with pytest.raises(DataError, match=expected) as caught:
        read(path)
    said = str(caught.value)
    assert said.startswith(str(path)) and "Remedy: " in said and len(said) < 900


@pytest.mark.parametrize(("make", "expected"), ARRAYS.values(), ids=ARRAYS)
def test_archives(tmp_path, make, expected):
    check(make(tmp_path), expected)


@pytest.mark.parametrize(("contents", "expected"), FOLDERS.values(), ids=FOLDERS)
def test_folders(tmp_path, contents, expected):
    fill(tmp_path, contents)
    check(tmp_path, expected)


def test_what_was_left_as_it_is_stands_in_the_manifest(tmp_path):
    fill(tmp_path, EMNIST)
    manifest = load(tmp_path).manifest
    assert manifest["orientation"] == "transposed, as EMNIST stores them"
    assert manifest["left_alone"] == ["emnist-letters-mapping.txt"]
