"""Names, splits, manifests, the cache, stand-ins and the hub form."""

import dataclasses
import doctest
import hashlib
import json
import re
import subprocess
import sys
import types

import numpy as np
import pytest
from sklearn.datasets import load_digits

import kljax.data.batching
import kljax.data.dataset
import kljax.data.loading
import kljax.data.pairs
import kljax.data.readers.python
import kljax.data.readers.text
import kljax.data.routes.hub
import kljax.data.sources
import kljax.errors
import kljax.metrics.images
from kljax.data import from_unit, load, names, to_unit
from kljax.data.loading import prepare
from kljax.data.readers.raw import Raw
from kljax.data.routes.cache import cache_folder
from kljax.data.splits import held_out
from kljax.errors import DataError


def silent(line):
    """Takes the place of the progress line."""


def test_digits_are_those_of_scikit_learn(tmp_path):
    everything = load("digits", "all", root=tmp_path)
    reference = load_digits()
    np.testing.assert_array_equal(everything.images[..., 0], reference.images)
    np.testing.assert_array_equal(everything.labels, reference.target)
    assert (everything.levels, everything.num_classes) == (17, 10)


def test_digits_split_is_stratified_complete_and_fixed(tmp_path):
    train, test = (load("digits", s, root=tmp_path) for s in ("train", "test"))
    assert (len(train), len(test)) == (1437, 360)
    share = np.array(test.manifest["class_counts"]) / np.bincount(load_digits().target)
    assert np.abs(share - 0.2).max() < 0.006
    rows = [x.tobytes() for x in (*train.images, *test.images)]
    assert sorted(rows) == sorted(
        x.astype(np.uint8).tobytes() for x in load_digits().images
    )
    # The same images on every machine and in every release.
    total = hashlib.sha256(test.images.tobytes() + test.labels.tobytes()).hexdigest()
    assert total.startswith("ce1105aa77f17470")
    assert train.manifest["sha256"] == test.manifest["sha256"]


def test_split_follows_the_definition_and_ignores_the_order_of_the_files():
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (43, 8, 8, 1), dtype=np.uint8)
    labels = np.repeat(np.arange(3, dtype=np.int32), (30, 12, 1))
    test = held_out(x, labels)
    # 20 % of 43 is 9 when rounded up: 6 of 30, then 2.4 of 12 gets the ninth; the class
    # with a single image keeps it for training.
    assert np.bincount(labels[test], minlength=3).tolist() == [6, 3, 0]
    for label in range(2):
        members = np.flatnonzero(labels == label)
        ranked = sorted(members, key=lambda i: hashlib.sha256(x[i].tobytes()).digest())
        chosen = test[labels[test] == label]
        assert sorted(ranked[: len(chosen)]) == chosen.tolist()
    order = rng.permutation(43)
    again = held_out(x[order], labels[order])
    assert {x[i].tobytes() for i in test} == {x[order][i].tobytes() for i in again}
    assert len(held_out(x, None)) == 9


def test_mnist5k_has_400_and_100_of_each(tmp_path):
    train, test = (load("mnist5k", s, root=tmp_path) for s in ("train", "test"))
    assert train.images.shape == (4000, 28, 28, 1)
    assert train.manifest["class_counts"] == [400] * 10
    assert test.manifest["class_counts"] == [100] * 10
    assert train.levels == 256 and train.images.max() == 255


def test_manifest_says_where_the_data_come_from(tmp_path):
    manifest = load("digits", root=tmp_path).manifest
    json.dumps(manifest)
    expected = {
        "name": "digits",
        "source": "pip",
        "package": "scikit-learn",
        "synthetic": False,
        "known_content": True,
        "n": 1437,
        "split": "train",
        "shapes": {"all": [1797, 8, 8, 1]},
        "levels": 17,
        "license": "BSD-3-Clause",
    }
    assert expected.items() <= manifest.items()
    assert "stratified by class" in manifest["split_rule"]
    assert len(manifest["sha256"]) == 64 and manifest["version"]


def test_prepared_form_is_the_same_data_from_the_cache_and_by_path(tmp_path):
    fresh = load("digits", root=tmp_path)
    with pytest.raises(DataError, match="nothing prepared in the cache"):
        load("digits", root=tmp_path, route="cache")
    file = prepare("digits", root=tmp_path, report=silent)
    assert sorted(p.name for p in file.parent.iterdir()) == [
        "digits.npz",
        "manifest.json",
    ]
    written = json.loads((file.parent / "manifest.json").read_text())
    cached = load("digits", root=tmp_path, route="cache")
    by_path = load(file)
    for other in (cached, by_path):
        np.testing.assert_array_equal(other.images, fresh.images)
        np.testing.assert_array_equal(other.labels, fresh.labels)
        assert other.levels == 17
        assert other.manifest["sha256"] == written["sha256"] == fresh.manifest["sha256"]
    assert cached.manifest == fresh.manifest
    assert by_path.manifest["source"] == "path"
    assert by_path.manifest["prepared_from"]["source"] == "pip"
    assert by_path.manifest["known_content"] is True
    assert by_path.manifest["name"] == "digits"


def test_damaged_cache_is_reported_not_replaced(tmp_path):
    file = prepare("digits", root=tmp_path, report=silent)
    arrays = dict(np.load(file))
    arrays["images"][0, 0, 0, 0] += 1
    np.savez(file, **arrays)
    with pytest.raises(DataError, match=r"digits.npz: its arrays are not those of its"):
        load("digits", root=tmp_path)
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(DataError, match=r"digits.npz: cannot be read"):
        load("digits", root=tmp_path)


def test_write_that_fails_leaves_nothing(tmp_path, monkeypatch):
    def fail(file, **arrays):
        file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(np, "savez_compressed", fail)
    with pytest.raises(OSError, match="disk full"):
        prepare("digits", root=tmp_path, report=silent)
    assert list((tmp_path / "digits").iterdir()) == []


def test_cache_folder_follows_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("KLJAX_CACHE", str(tmp_path / "own"))
    assert cache_folder(tmp_path / "root") == tmp_path / "root"
    assert cache_folder() == tmp_path / "own"
    monkeypatch.delenv("KLJAX_CACHE")
    assert cache_folder() == tmp_path / "xdg" / "kljax"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "kljax"


def test_another_release_of_a_package_must_carry_the_same_file(tmp_path, monkeypatch):
    package = tmp_path / "fakedigits"
    package.mkdir()
    (package / "rows.csv.gz").write_bytes(b"something else")
    monkeypatch.syspath_prepend(tmp_path)
    entry = dataclasses.replace(
        kljax.data.sources.find("digits"),
        name="fake",
        package="fakedigits",
        member="fakedigits/rows.csv.gz",
    )
    with_table(monkeypatch, entry)
    (package / "__init__.py").write_text("raise RuntimeError('never imported')")
    with pytest.raises(DataError, match=r"rows.csv.gz: SHA-256 .* instead of"):
        load("fake", root=tmp_path)
    content = (package / "rows.csv.gz").read_bytes()
    same = dataclasses.replace(entry, sha256=hashlib.sha256(content).hexdigest())
    with_table(monkeypatch, same)
    with pytest.raises(DataError, match="not rows of 64 bytes and a label"):
        load("fake", root=tmp_path)
    (package / "rows.csv.gz").unlink()
    with pytest.raises(DataError, match=r"has no file fakedigits/rows.csv.gz"):
        load("fake", root=tmp_path)


def test_pinned_content_is_compared(tmp_path, monkeypatch):
    entry = dataclasses.replace(kljax.data.sources.find("digits"), content="0" * 64)
    with_table(monkeypatch, entry)
    with pytest.raises(DataError, match="pixels or labels are not those of digits"):
        load("digits", root=tmp_path)


def with_table(monkeypatch, *entries):
    """Replaces the table of sources."""
    table = {entry.name: entry for entry in entries}
    monkeypatch.setattr(kljax.data.sources, "table", lambda: table)


def test_unknown_names_splits_and_sources_list_the_known_ones():
    assert names() == ("digits", "mnist5k", "fashion_mnist", "cifar10", "cifar100")
    known = f"known: {', '.join(names())}"
    for name, hint in (
        ("Fashion-MINST", " did you mean 'fashion_mnist'?"),
        ("mnist", " did you mean 'mnist5k'?"),
        ("", ""),
        ("zzz", ""),
    ):
        said = f"unknown data set {name!r};{hint} {known}. For your own images pass "
        with pytest.raises(ValueError, match=re.escape(said + "a path.")):
            load(name)
    with pytest.raises(ValueError, match=r"known: .* That is of the kind 'model'"):
        load("SmolLM2")
    with pytest.raises(ValueError, match=r"split must be one of .*got 'valid'"):
        load("digits", "valid")
    with pytest.raises(DataError, match=r'one piece.* split="train", "test" or "all"'):
        load("digits", "val")
    with pytest.raises(TypeError, match=r"source must be .* got ndarray; save arrays"):
        load(np.zeros(3))
    with pytest.raises(ValueError, match=r"route must be auto or one of .*'web'"):
        load("digits", route="web")


def test_nothing_here_lists_every_route_and_never_makes_data_up(tmp_path, monkeypatch):
    monkeypatch.setattr("kljax.data.routes.debian.SYSTEM", tmp_path)
    with pytest.raises(DataError) as caught:
        load("fashion_mnist", root=tmp_path)
    for part in (
        "cache: nothing prepared",
        "pip: not part of a Python package",
        "debian: 30.9 MB to download: fetch=True",
        "python -m kljax.data fetch fashion_mnist",
        "hf: asked only with fetch=True",
        "tfds: asked only with fetch=True",
    ):
        assert part in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_stand_in_is_marked_everywhere_even_after_saving(tmp_path, monkeypatch):
    monkeypatch.setattr("kljax.data.routes.debian.SYSTEM", tmp_path)
    found = load("fashion_mnist", root=tmp_path, allow_synthetic=True)
    assert found.manifest["synthetic"] is True
    assert found.manifest["source"] == "synthetic"
    assert found.manifest["name"] == "synthetic stand-in for fashion_mnist"
    assert found.manifest["known_content"] is False
    assert found.images.shape == (2000, 28, 28, 1) and found.num_classes == 10
    again = load("fashion_mnist", root=tmp_path, allow_synthetic=True)
    np.testing.assert_array_equal(found.images, again.images)
    # Classes can be told apart: nearest class mean.
    test = load("fashion_mnist", "test", root=tmp_path, allow_synthetic=True)
    means = np.stack([found.images[found.labels == k].mean(0) for k in range(10)])
    gaps = ((test.images[:, None] - means) ** 2).sum((2, 3, 4))
    assert (gaps.argmin(1) == test.labels).mean() > 0.95
    # Real data are preferred, whatever is allowed.
    assert (
        load("digits", root=tmp_path, allow_synthetic=True).manifest["source"] == "pip"
    )
    file = tmp_path / "saved.npz"
    np.savez(file, images=found.images, manifest=json.dumps(found.manifest))
    by_path = load(file).manifest
    assert by_path["synthetic"] is True and by_path["name"].startswith("synthetic")


def hub_rows(n, seed):
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 256, (n, 28, 28), dtype=np.uint8)
    return x, np.arange(n) % 10


@pytest.fixture
def hubs(monkeypatch):
    """Both hub clients, offline, with twelve and six images."""
    data = {"train": hub_rows(12, 0), "test": hub_rows(6, 1)}
    hf = types.ModuleType("datasets")
    hf.load_dataset = lambda name: {
        split: [{"image": x, "label": int(y)} for x, y in zip(*rows)]
        for split, rows in data.items()
    }
    hf.__version__ = "9.9"
    tfds = types.ModuleType("tensorflow_datasets")
    tfds.load = lambda name, split, batch_size: [
        {"image": data[s][0][..., None], "label": data[s][1]} for s in split
    ]
    tfds.as_numpy = lambda parts: parts
    monkeypatch.setitem(sys.modules, "datasets", hf)
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", tfds)
    return data, hf


@pytest.mark.parametrize("client", ["hf", "tfds"])
def test_hub_form_has_the_schema_of_the_offline_form(tmp_path, hubs, client):
    data, _ = hubs
    offline = load("digits", root=tmp_path)
    for split in ("train", "test"):
        found = load("fashion_mnist", split, root=tmp_path, route=client)
        np.testing.assert_array_equal(found.images[..., 0], data[split][0])
        np.testing.assert_array_equal(found.labels, data[split][1])
        assert found.manifest["source"] == client
        assert found.manifest["known_content"] is False
        for name in ("images", "labels"):
            ours, theirs = getattr(found, name), getattr(offline, name)
            assert (ours.dtype, ours.ndim) == (theirs.dtype, theirs.ndim)
        common = set(offline.manifest) - {"archive_sha256"}
        assert common <= set(found.manifest)


def test_hub_is_the_last_resort_of_a_fetch(tmp_path, hubs, monkeypatch):
    monkeypatch.setattr("kljax.data.routes.debian.SYSTEM", tmp_path)
    monkeypatch.setenv("PATH", "")
    found = load("fashion_mnist", root=tmp_path, fetch=True)
    assert found.manifest["source"] == "hf" and len(found) == 12
    found = load("cifar10", root=tmp_path, fetch=True)  # no other route has it
    assert found.manifest["source"] == "hf" and len(found) == 12
    with pytest.raises(DataError, match=r"hub: on a hub alone \(uoft-cs/cifar100\)"):
        load("cifar100", root=tmp_path)


def test_hub_failures_name_the_client(tmp_path, hubs, monkeypatch):
    _, hf = hubs

    def offline(name):
        raise ConnectionError("no route")

    hf.load_dataset = offline
    with pytest.raises(DataError, match=r"datasets failed \(ConnectionError: no route"):
        load("fashion_mnist", root=tmp_path, route="hf")
    hf.load_dataset = lambda name: {
        split: [{"text": "x"}] for split in ("train", "test")
    }
    with pytest.raises(DataError, match="no column"):
        load("fashion_mnist", root=tmp_path, route="hf")
    with pytest.raises(DataError, match="no name for digits on this hub"):
        load("digits", root=tmp_path, route="hf")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match="pip install datasets"):
        load("fashion_mnist", root=tmp_path, route="hf")


def test_grey_levels_map_to_the_unit_interval_and_back():
    for levels in (2, 17, 256):
        raw = np.arange(levels, dtype=np.uint8)
        unit = to_unit(raw, levels)
        assert unit.dtype == np.float32 and (unit[0], unit[-1]) == (-1, 1)
        np.testing.assert_array_equal(from_unit(unit, levels), raw)
    np.testing.assert_array_equal(to_unit(np.arange(17), 17), np.arange(17) / 8 - 1)
    noisy = np.array([-9.0, -0.07, -0.06, 0.99, 9.0])
    np.testing.assert_array_equal(from_unit(noisy, 17), [0, 7, 8, 16, 16])
    with pytest.raises(ValueError, match="finite"):
        from_unit(np.array([np.nan]))
    with pytest.raises(ValueError, match="levels must be"):
        from_unit(np.zeros(1), 257)
    with pytest.raises(ValueError, match="levels must be"):
        to_unit(np.zeros(1), 1)


def test_scaled_digits_have_the_published_spread(tmp_path):
    scaled = load("digits", "all", root=tmp_path).scaled()
    assert scaled.dtype == np.float32
    assert scaled.std() == pytest.approx(0.752, abs=0.001)


def test_splits_other_than_train_and_test_are_refused():
    x = np.zeros((4, 8, 8, 1), np.uint8)
    with pytest.raises(DataError, match=r"found the splits \['train'\]"):
        Raw("here", {"train": (x, None)})


def test_examples_in_the_docstrings(tmp_path, monkeypatch):
    monkeypatch.setenv("KLJAX_CACHE", str(tmp_path))
    modules = (
        kljax.data.batching,
        kljax.data.dataset,
        kljax.data.loading,
        kljax.data.pairs,
        kljax.data.readers.python,
        kljax.data.sources,
        kljax.data.readers.text,
        kljax.errors,
        kljax.metrics.images,
    )
    for module in modules:
        result = doctest.testmod(module)
        assert result.attempted and not result.failed


def test_importing_the_loader_imports_no_optional_package(tmp_path, monkeypatch):
    monkeypatch.setenv("KLJAX_CACHE", str(tmp_path))
    code = (
        "import sys, kljax.data, kljax.metrics; kljax.data.load('digits');"
        "print(sorted({'sklearn', 'scipy', 'PIL', 'mlxtend', 'datasets', 'pandas'}"
        " & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr
