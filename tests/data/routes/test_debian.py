"""Debian archives and the command line, with a small archive and a fake apt-get."""

import dataclasses
import gzip
import hashlib
import io
import lzma
import os
import struct
import tarfile

import numpy as np
import pytest

import kljax.data.__main__
import kljax.data.loading
import kljax.data.sources
from kljax.data import load
from kljax.data.__main__ import main
from kljax.data.routes.debian import archive_file, download, extract
from kljax.data.sources import Source
from kljax.errors import DataError

MEMBER = "usr/share/datasets/tiny"


def idx_gz(array):
    head = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    return gzip.compress(head + array.tobytes(), mtime=0)


def tar_xz(files):
    """A tar.xz of `{name: content}`."""
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return lzma.compress(target.getvalue())


def deb(files):
    """A .deb: an ar archive of a version, a control and a data member."""
    parts = b"!<arch>\n"
    members = {
        "debian-binary": b"2.0\n",
        "control.tar.xz": tar_xz({"./control": b"x"}),
        "data.tar.xz": tar_xz(files),
    }
    for name, content in members.items():
        parts += (
            f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(content):<10}".encode()
        )
        parts += b"`\n" + content + b"\n" * (len(content) % 2)
    return parts


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """A table of one Debian source, its archive, and an apt-get that delivers it."""
    rng = np.random.default_rng(0)
    arrays = {
        "train-images-idx3-ubyte.gz": rng.integers(0, 256, (20, 8, 8), dtype=np.uint8),
        "train-labels-idx1-ubyte.gz": np.arange(20, dtype=np.uint8) % 2,
        "t10k-images-idx3-ubyte.gz": rng.integers(0, 256, (6, 8, 8), dtype=np.uint8),
        "t10k-labels-idx1-ubyte.gz": np.arange(6, dtype=np.uint8) % 2,
    }
    files = {f"./{MEMBER}/{name}": idx_gz(array) for name, array in arrays.items()}
    content = deb(files | {"./usr/share/doc/tiny/README": b"not wanted"})
    (tmp_path / "tiny.deb").write_bytes(content)
    entry = Source(
        name="tiny",
        title="a test",
        route="debian",
        package="dataset-tiny",
        version="1.0-1",
        member=MEMBER,
        format="idx",
        sha256=hashlib.sha256(content).hexdigest(),
        bytes=len(content),
        content="",
        license="MIT",
        count=26,
        shape=(8, 8, 1),
        levels=256,
        num_classes=2,
    )
    use(monkeypatch, entry)
    monkeypatch.setattr("kljax.data.routes.debian.SYSTEM", tmp_path / "system")
    apt(tmp_path, monkeypatch, f'cp {tmp_path}/tiny.deb "$2"_all.deb; echo "$@" >&2')
    return entry, tmp_path / "cache", arrays


def use(monkeypatch, *entries):
    table = {entry.name: entry for entry in entries}
    monkeypatch.setattr(kljax.data.sources, "table", lambda: table)


def apt(tmp_path, monkeypatch, script):
    """Puts an apt-get that runs `script` in front of the real one."""
    tools = tmp_path / "tools"
    tools.mkdir(exist_ok=True)
    (tools / "apt-get").write_text(f"#!/bin/sh\n{script}\n")
    (tools / "apt-get").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}{os.pathsep}{os.defpath}")


def left_in(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def test_fetched_archive_is_loaded_and_prepared(tiny, capsys):
    entry, root, arrays = tiny
    found = load("tiny", root=root, fetch=True)
    train, labels = list(arrays.values())[:2]
    np.testing.assert_array_equal(found.images[..., 0], train)
    np.testing.assert_array_equal(found.labels, labels)
    assert found.manifest["source"] == "debian"
    assert found.manifest["archive_sha256"] == entry.sha256
    assert left_in(root) == [
        "tiny/dataset-tiny.deb",
        "tiny/manifest.json",
        "tiny/tiny.npz",
    ]
    assert "apt-get download dataset-tiny=1.0-1" in capsys.readouterr().err
    # From now on the prepared form serves, without the archive and without fetch.
    archive_file(entry, root).unlink()
    cached = load("tiny", "test", root=root)
    assert cached.manifest["source"] == "debian" and len(cached) == 6


def test_command_line_lists_fetches_and_prepares(tiny, capsys):
    _, root, _ = tiny
    arguments = ["--root", str(root)]
    assert main([*arguments, "list"]) == 0
    listed = capsys.readouterr().out
    assert "to fetch" in listed and "8x8x1" in listed and str(root) in listed
    assert main([*arguments, "prepare", "tiny"]) == 1
    assert "python -m kljax.data fetch tiny" in capsys.readouterr().err
    assert main([*arguments, "fetch", "tiny"]) == 0
    assert "checking the SHA-256" in capsys.readouterr().out
    assert main([*arguments, "list"]) == 0
    assert "fetched" in capsys.readouterr().out
    assert main([*arguments, "prepare", "tiny"]) == 0
    assert "tiny.npz" in capsys.readouterr().out
    assert main([*arguments, "list"]) == 0
    assert "prepared" in capsys.readouterr().out
    assert main([*arguments, "fetch", "tiny"]) == 0
    assert "prepared already" in capsys.readouterr().out
    assert main([*arguments, "fetch", "tinny"]) == 1
    assert "did you mean 'tiny'" in capsys.readouterr().err.lower()


def test_command_line_with_the_real_table(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("KLJAX_CACHE", str(tmp_path))
    assert main(["list"]) == 0
    listed = capsys.readouterr().out
    for part in ("digits", "mnist5k", "fashion_mnist", "MIT", "30.9", "70000"):
        assert part in listed
    assert main(["fetch", "digits"]) == 0
    assert "digits: nothing to fetch, " in capsys.readouterr().out
    assert main(["prepare", "digits"]) == 0
    assert "writing 1797 images" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["erase"])


def test_packages_that_are_missing_are_named(tiny, monkeypatch, capsys):
    entry, root, _ = tiny
    absent = dataclasses.replace(
        entry, name="absent", route="pip", package="no-such", member="no_such/rows.gz"
    )
    use(monkeypatch, absent)
    assert main(["--root", str(root), "list"]) == 0
    assert "not installed: pip install no-such" in capsys.readouterr().out
    assert main(["--root", str(root), "fetch", "absent"]) == 1
    assert "pip install no-such" in capsys.readouterr().err


def test_installed_package_needs_no_download(tiny, monkeypatch, tmp_path, capsys):
    entry, root, arrays = tiny
    monkeypatch.setenv("PATH", "")
    extract(tmp_path / "tiny.deb", MEMBER, tmp_path / "system")
    found = load("tiny", "test", root=root)
    np.testing.assert_array_equal(
        found.images[..., 0], arrays["t10k-images-idx3-ubyte.gz"]
    )
    assert found.manifest["source"] == "debian" and not root.exists()
    assert main(["--root", str(root), "list"]) == 0
    assert f"ready, {MEMBER.rpartition('/')[2]}" in capsys.readouterr().out
    assert main(["--root", str(root), "fetch", entry.name]) == 0
    assert "tiny: nothing to fetch, " in capsys.readouterr().out


def test_stale_index_says_what_to_run(tiny, tmp_path, monkeypatch, capsys):
    _, root, _ = tiny
    apt(tmp_path, monkeypatch, "echo 'E: Version was not found' >&2; exit 100")
    assert main(["--root", str(root), "fetch", "tiny"]) == 1
    said = capsys.readouterr().err
    assert "E: Version was not found" in said and "run `apt-get update`" in said
    assert left_in(root) == []
    apt(tmp_path, monkeypatch, "exit 0")
    assert main(["--root", str(root), "fetch", "tiny"]) == 1
    assert "left 0 archives" in capsys.readouterr().err
    monkeypatch.setenv("PATH", "")
    assert main(["--root", str(root), "fetch", "tiny"]) == 1
    assert "apt-get is not on this machine" in capsys.readouterr().err


def test_wrong_archive_is_not_kept(tiny, tmp_path):
    _, root, _ = tiny
    (tmp_path / "tiny.deb").write_bytes(deb({f"./{MEMBER}/x": b"other"}))
    with pytest.raises(DataError, match=r"SHA-256 .* instead of"):
        load("tiny", root=root, fetch=True)
    assert left_in(root) == []


def test_interrupted_download_leaves_nothing(tiny, tmp_path, monkeypatch, capsys):
    entry, root, _ = tiny
    apt(
        tmp_path,
        monkeypatch,
        f"head -c {entry.bytes // 2} {tmp_path}/tiny.deb > x.deb; exec sleep 20",
    )
    said = []

    def interrupt(line):
        said.append(line)
        if " of " in line:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        download(entry, root, interrupt)
    assert left_in(root) == [] and len(said) == 2
    interrupted = lambda *_: interrupt(" of ")
    monkeypatch.setattr(kljax.data.routes.debian, "run", interrupted)
    assert main(["--root", str(root), "fetch", "tiny"]) == 130
    assert "nothing half-written" in capsys.readouterr().err


def test_archive_damaged_in_the_cache_is_named(tiny):
    entry, root, _ = tiny
    download(entry, root, lambda line: None)
    file = archive_file(entry, root)
    file.write_bytes(file.read_bytes()[:-5])
    with pytest.raises(DataError, match=r"dataset-tiny.deb: SHA-256"):
        load("tiny", root=root)


def test_extraction_writes_only_the_data_folder(tiny, tmp_path):
    _, _, arrays = tiny
    extract(tmp_path / "tiny.deb", MEMBER, tmp_path / "out")
    assert left_in(tmp_path / "out") == sorted(f"{MEMBER}/{name}" for name in arrays)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a Debian archive"),
        (b"!<arch>\n" + b"x" * 60, "not a Debian archive"),
        (deb({f"./{MEMBER}/a": b"1"})[:-30], "not a Debian archive, or truncated"),
        (deb({"./usr/share/doc/a": b"1"}), "holds no folder"),
        (deb({f"./{MEMBER}/../../../../../out": b"1"}), "cannot be read"),
    ],
)
def test_extraction_refuses_foreign_archives(tmp_path, content, message):
    archive = tmp_path / "a.deb"
    archive.write_bytes(content)
    with pytest.raises(DataError, match=message):
        extract(archive, MEMBER, tmp_path / "below" / "target")
    assert left_in(tmp_path) == ["a.deb"]


@pytest.mark.parametrize(
    ("called", "name"),
    [
        ("Fashion-MNIST", "fashion_mnist"),
        ("FashionMNIST", "fashion_mnist"),
        ("fmnist", "fashion_mnist"),
        ("zalando-datasets/fashion_mnist", "fashion_mnist"),
        ("MNIST 5k", "mnist5k"),
        ("sklearn-digits", "digits"),
        ("SmolLM2-135M-Instruct", "smollm2"),
    ],
)
def test_names_have_other_spellings(called, name):
    assert kljax.data.sources.find(called).name == name
