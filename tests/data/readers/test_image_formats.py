"""What users bring: idx, .npz and image folders, good ones and broken ones."""

import gzip
import struct
import sys

import numpy as np
import pytest
from PIL import Image

from kljax.data import load
from kljax.errors import DataError


def idx_bytes(array):
    """An idx file of bytes, written from the description of the format."""
    head = struct.pack(">BBBB", 0, 0, 8, array.ndim)
    return head + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def images(n, side=8, channels=1, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (n, side, side, channels), dtype=np.uint8)


@pytest.fixture
def mnist_folder(tmp_path):
    """A folder with MNIST's names: 10 + 5 images, the test files gzipped."""
    train, test = images(10)[..., 0], images(5, seed=1)[..., 0]
    labels = np.arange(10, dtype=np.uint8) % 3
    (tmp_path / "train-images-idx3-ubyte").write_bytes(idx_bytes(train))
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx_bytes(labels))
    for name, array in (("images-idx3", test), ("labels-idx1", labels[:5])):
        (tmp_path / f"t10k-{name}-ubyte.gz").write_bytes(
            gzip.compress(idx_bytes(array))
        )
    return tmp_path, train, test, labels


def test_idx_folder_gives_both_splits_as_published(mnist_folder):
    folder, train, test, labels = mnist_folder
    found = load(folder)
    np.testing.assert_array_equal(found.images, train[..., None])
    np.testing.assert_array_equal(found.labels, labels)
    assert (found.images.dtype, found.labels.dtype) == (np.uint8, np.int32)
    assert (found.num_classes, found.levels, len(found)) == (3, 256, 10)
    np.testing.assert_array_equal(load(folder, split="test").images[..., 0], test)
    both = load(folder, split="all")
    np.testing.assert_array_equal(both.images[..., 0], np.concatenate([train, test]))
    with pytest.raises(ValueError, match="read-only"):
        found.images[0] = 0
    manifest = found.manifest
    assert manifest["source"] == "path" and manifest["synthetic"] is False
    assert manifest["split_rule"] == "as published"
    assert manifest["shapes"] == {"train": [10, 8, 8, 1], "test": [5, 8, 8, 1]}
    assert manifest["class_counts"] == [4, 3, 3]


def test_idx_single_file_finds_labels_beside_it_and_gets_a_split(mnist_folder):
    folder, train, _, labels = mnist_folder
    found = load(folder / "train-images-idx3-ubyte", "all")
    np.testing.assert_array_equal(found.images[..., 0], train)
    np.testing.assert_array_equal(found.labels, labels)
    assert found.manifest["name"] == "train-images-idx3-ubyte"
    test = load(folder / "train-images-idx3-ubyte", split="test")
    assert len(test) == 2 and "20% held out" in test.manifest["split_rule"]
    # A compressed file of images may have plain labels, or none.
    (folder / "t10k-labels-idx1-ubyte.gz").unlink()
    alone = load(folder / "t10k-images-idx3-ubyte.gz", split="all")
    assert alone.labels is None and alone.num_classes == 0
    assert alone.manifest["class_counts"] == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (idx_bytes(images(4)[..., 0])[:-1], "truncated or damaged"),
        (idx_bytes(images(4)[..., 0]) + b"x", "truncated or damaged"),
        (gzip.compress(idx_bytes(images(4)[..., 0]))[:-9], "gzip stream is damaged"),
        (b"<html>not found</html>", "not an idx file"),
        (b"", "not an idx file"),
        (b"\0\0\x08\x03\0\0", "not an idx file"),
        (idx_bytes(np.arange(4, dtype=np.uint8)), "file of the images"),
        (idx_bytes(images(2, 4)[..., 0]), "squares of 8 to 64"),
        (idx_bytes(images(2)[:, :, :5, 0]), "8 x 5"),
        (idx_bytes(images(0)[..., 0]), "no images"),
    ],
)
def test_idx_refuses_broken_files_by_name(tmp_path, content, message):
    file = tmp_path / "train-images-idx3-ubyte"
    file.write_bytes(content)
    for path in (file, tmp_path):
        with pytest.raises(DataError, match=message) as caught:
            load(path)
        assert str(tmp_path) in str(caught.value) and "Remedy" in str(caught.value)


def test_idx_refuses_labels_that_do_not_fit(mnist_folder):
    folder, *_ = mnist_folder
    labels = np.arange(7, dtype=np.uint8)
    (folder / "train-labels-idx1-ubyte").write_bytes(idx_bytes(labels))
    with pytest.raises(DataError, match=r"10 train images but labels of shape \[7\]"):
        load(folder)
    (folder / "train-labels-idx1-ubyte").unlink()
    with pytest.raises(DataError, match="only one of the splits has labels"):
        load(folder)
    (folder / "train-labels-idx1-ubyte").write_bytes(idx_bytes(images(2)[..., 0]))
    with pytest.raises(DataError, match=r"expected labels \[n\]"):
        load(folder)
    (folder / "train-extra-images-idx3-ubyte").write_bytes(b"")
    with pytest.raises(DataError, match="both look like the train images"):
        load(folder)


def test_npz_keeps_bytes_and_takes_grey_without_a_channel_axis(tmp_path):
    file, x = tmp_path / "a.npz", images(20, 9)
    labels = np.arange(20) % 2
    np.savez(file, images=x[..., 0], labels=labels)
    found = load(file, split="all")
    np.testing.assert_array_equal(found.images, x)
    np.testing.assert_array_equal(found.labels, labels)
    assert found.labels.dtype == np.int32
    assert found.manifest["value_rule"] == "integers 0 .. 255, kept"


@pytest.mark.parametrize(
    ("values", "rule"),
    [
        (lambda x: x.astype(np.int64), "integers"),
        (lambda x: (x / 255).astype(np.float32), r"[0, 1]"),
        (lambda x: x / 127.5 - 1, r"[-1, 1]"),
        (lambda x: (x / 127.5 - 1).astype(np.float16), r"[-1, 1]"),
    ],
)
def test_npz_values_follow_one_rule(tmp_path, values, rule):
    file, x = tmp_path / "a.npz", images(6, 8, 3)
    np.savez(file, x_train=values(x), x_test=values(x[:2]))
    found = load(file)
    half = values(x).dtype == np.float16
    assert np.abs(found.images.astype(int) - x).max() <= int(half)
    assert rule in found.manifest["value_rule"] and found.labels is None
    assert load(file, split="test").images.shape == (2, 8, 8, 3)


def test_npz_with_levels_keeps_them(tmp_path):
    file, x = tmp_path / "a.npz", images(6) % 17
    np.savez(file, images=x, levels=17)
    assert load(file).levels == 17
    np.savez(file, images=x + 1, levels=16)
    with pytest.raises(DataError, match=r"have the value 1\d, expected 0 .. 15"):
        load(file)
    np.savez(file, images=x, levels=np.array([17]))
    with pytest.raises(DataError, match=r"one integer in 2 .. 256"):
        load(file)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"pictures": images(3)}, r"holds \['pictures'\], expected images"),
        ({"images": images(3), "train_images": images(3)}, "expected images"),
        ({"images": images(3) * 1.5}, "integers in 0 .. 255 or finite floats"),
        ({"images": images(3).astype(int) + 200}, "Remedy: rescale"),
        ({"images": images(3) - np.nan}, "finite floats"),
        ({"images": np.array(["a"])}, "kind U"),
        ({"images": images(3).transpose(0, 3, 1, 2)}, "channels-first"),
        ({"images": images(3, 8, 4)}, "4 channels"),
        ({"images": images(3)[0, 0]}, r"expected images \[n, h, w\]"),
        ({"images": images(0)}, "no images"),
        ({"images": images(3), "labels": np.eye(3)}, "labels are float64"),
        ({"images": images(3), "labels": np.arange(3) - 1}, "the label -1"),
        ({"images": images(3), "labels": np.arange(3) + 2**31}, "class indices"),
        ({"images": images(3), "manifest": np.array("{")}, "manifest is not JSON"),
        (
            {"train_images": images(3), "test_images": images(3, 9)},
            "train and test images differ in shape",
        ),
    ],
)
def test_npz_refuses_what_it_cannot_trust(tmp_path, arrays, message):
    file = tmp_path / "a.npz"
    np.savez(file, **arrays)
    with pytest.raises(DataError, match=message) as caught:
        load(file)
    assert str(file) in str(caught.value) and "Remedy" in str(caught.value)


def test_npz_is_never_unpickled(tmp_path):
    file = tmp_path / "a.npz"
    np.savez(file, images=np.array([{"x": 1}], dtype=object))
    with pytest.raises(DataError, match="without unpickling"):
        load(file)
    np.savez(file, images=images(50))
    file.write_bytes(file.read_bytes()[:500])
    with pytest.raises(DataError, match="cannot be read"):
        load(file)
    with file.open("wb") as opened:
        np.save(opened, images(3))
    with pytest.raises(DataError, match="a single array"):
        load(file)


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def test_picture_folder_with_classes_numbers_them_in_order(tmp_path):
    x = images(6, 12)[..., 0]
    for i, name in enumerate(("10", "2", "1", "10", "2", "1")):
        save(tmp_path / name / f"{i}.png", x[i])
    (tmp_path / "1" / "notes.txt").write_text("left alone")
    (tmp_path / "1" / ".hidden.png").write_bytes(b"")
    (tmp_path / ".cache").mkdir()
    found = load(tmp_path, split="all")
    assert found.manifest["class_names"] == ["1", "2", "10"]
    np.testing.assert_array_equal(found.labels, [0, 0, 1, 1, 2, 2])
    np.testing.assert_array_equal(found.images[..., 0], x[[2, 5, 1, 4, 0, 3]])
    assert found.num_classes == 3 and found.manifest["ignored_files"] == 2
    assert found.manifest["left_alone"] == ["notes.txt"]


def test_picture_folder_honors_train_and_test(tmp_path):
    x = images(4, 8, 3)
    save(tmp_path / "train" / "cat" / "a.png", x[0])
    save(tmp_path / "train" / "dog" / "b.png", x[1])
    save(tmp_path / "test" / "dog" / "c.png", x[2])
    save(tmp_path / "test" / "cat" / "d.PNG", x[3])
    train, test = load(tmp_path), load(tmp_path, split="test")
    np.testing.assert_array_equal(train.images, x[:2])
    np.testing.assert_array_equal(test.images, x[[3, 2]])
    np.testing.assert_array_equal(test.labels, [0, 1])
    assert train.manifest["split_rule"] == "as published"
    save(tmp_path / "test" / "cow" / "e.png", x[0])
    with pytest.raises(DataError, match=r"differ in the classes \['cow'\]"):
        load(tmp_path)


def test_flat_picture_folder_has_no_labels_and_one_mode(tmp_path):
    gray, color = images(1)[0, ..., 0], images(1, 8, 3)[0]
    for i in range(5):
        save(tmp_path / f"{i}.png", gray)
    assert load(tmp_path).images.shape == (4, 8, 8, 1)
    save(tmp_path / "5.png", color)
    found = load(tmp_path, split="all")
    assert found.labels is None and found.images.shape == (6, 8, 8, 3)
    np.testing.assert_array_equal(found.images[0], np.stack([gray] * 3, -1))
    np.testing.assert_array_equal(found.images[5], color)


def test_pictures_of_other_modes(tmp_path):
    save(tmp_path / "a.jpg", np.full((8, 8), 100, np.uint8))
    opaque = np.full((8, 8, 4), 255, np.uint8)
    opaque[..., :3] = 50
    Image.fromarray(opaque).save(tmp_path / "b.png")
    Image.fromarray(images(1)[0, ..., 0]).convert("P").save(tmp_path / "c.png")
    Image.fromarray(images(1)[0, ..., 0]).convert("1").save(tmp_path / "d.png")
    found = load(tmp_path, split="all").images
    assert found.shape == (4, 8, 8, 3)
    assert (found[0] == 100).all() and (found[1] == 50).all()
    assert set(np.unique(found[3])) <= {0, 255}


@pytest.mark.parametrize(
    ("name", "make", "message"),
    [
        ("b.png", lambda: Image.new("L", (8, 9)), "8 x 9 pixels"),
        ("b.png", lambda: Image.new("L", (65, 65)), "65 x 65 pixels"),
        ("b.png", lambda: Image.new("L", (9, 9)), "but .*a.png has 8"),
        ("b.png", lambda: Image.new("I;16", (8, 8)), "more than 8 bits"),
        ("b.png", lambda: Image.new("RGBA", (8, 8), (1, 2, 3, 4)), "transparent"),
        ("b.png", lambda: b"", "cannot be read as PNG or JPEG"),
        ("b.jpg", lambda: b"\xff\xd8\xff\xe0 rest", "cannot be read"),
        ("c/b.png", lambda: Image.new("L", (8, 8)), "an image beside class folders"),
        ("c/b.txt", lambda: b"", "c: holds no .png"),
        ("c/d/b.png", lambda: b"", "a folder inside a class folder"),
    ],
)
def test_picture_folder_names_the_odd_file(tmp_path, name, make, message):
    save(tmp_path / "a.png", images(1)[0, ..., 0])
    file, made = tmp_path / name, make()
    file.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(made, bytes):
        file.write_bytes(made)
    else:
        made.save(file)
    with pytest.raises(DataError, match=message) as caught:
        load(tmp_path)
    assert str(tmp_path) in str(caught.value) and "Remedy" in str(caught.value)


def test_truncated_picture_is_named(tmp_path):
    save(tmp_path / "a.png", images(1, 64, 3)[0])
    content = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=r"a.png: cannot be read"):
        load(tmp_path)


def test_paths_that_are_nothing(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        load(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"~no such user: cannot be read .*home"):
        load("~no such user")
    (tmp_path / "a.zip").write_bytes(b"PK")
    with pytest.raises(DataError, match=r"a.zip: an archive. Remedy: unpack it"):
        load(tmp_path / "a.zip")
    (tmp_path / "a.zip").unlink()
    with pytest.raises(DataError, match=r"holds no .png"):
        load(tmp_path)
    save(tmp_path / "a.png", images(1)[0, ..., 0])
    with pytest.raises(DataError, match="one image or array file is not a data set"):
        load(tmp_path / "a.png")
    with pytest.raises(DataError, match=r'too few .* split="all"'):
        load(tmp_path)
    (tmp_path / "b.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match="not an idx file"):
        load(tmp_path / "b.parquet")


def test_pictures_without_pillow_say_what_to_install(tmp_path, monkeypatch):
    save(tmp_path / "a.png", images(1)[0, ..., 0])
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(DataError, match="pip install pillow"):
        load(tmp_path)
