"""Source files of installed packages, found and parsed without importing them."""

import ast

import pytest

from kljax.data.readers.python import code, prose, source_files, syntax_tree
from kljax.errors import DataError


@pytest.fixture
def package(tmp_path, monkeypatch):
    root = tmp_path / "tests" / "sealed"  # what lies above does not matter
    for name in ("b.py", "a/c.py", "a/tests/d.py", "e.txt", "__init__.py"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("raise SystemExit('imported')")
    (root.parent / "lonely.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(root.parent)
    return root


def test_files_are_found_in_order_without_tests(package):
    files = ["__init__.py", "a/c.py", "b.py"]
    assert source_files("sealed") == [package / name for name in files]
    for inside in ("sealed/a", "sealed.a", "sealed/a/"):
        assert source_files(inside) == [package / "a/c.py"]
    assert source_files("lonely") == [package.parent / "lonely.py"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_such", "package no_such is not installed. Remedy: install it"),
        ("", "package  is not installed"),
        (".sealed", "package  is not installed"),
        ("sys", "package sys is not installed"),
        ("lonely/a", "package lonely is not installed"),
        ("sealed/none", "package sealed/none: no Python files there"),
        ("sealed/a/tests", "package sealed/a/tests: no Python files there"),
    ],
)
def test_what_is_no_package_is_named(package, name, message):
    with pytest.raises(DataError, match=message):
        source_files(name)


def test_files_that_this_python_cannot_read_have_no_tree(tmp_path):
    file = tmp_path / "a.py"
    for content in (
        b"print 'old'",
        b"\0",
        b"(" * 5000,
        b"x = " + b"-" * 200_000 + b"1",
    ):
        file.write_bytes(content)
        assert syntax_tree(file) is None
    file.write_bytes(b'"""\xe9."""\n"\\d"')
    assert ast.get_docstring(syntax_tree(file)) == "\N{REPLACEMENT CHARACTER}."


def test_text_of_packages():
    text = code(("numpy/lib",), 20_000)
    assert len(text) == 20_000 and "def " in text and '"""' not in text
    with pytest.raises(DataError, match="no_such_package"):
        prose(("no_such_package",), 100)


def test_prose_and_code_of_a_package(package):
    title = "A title of more than forty letters, in all."
    doc = f'"""\n    {title}\n\n        Indented, é.\n    """'
    (package / "b.py").write_text(f'"""Short."""\nasync def f():\n    {doc}\n')
    (package / "a/c.py").write_text("x = 1  # no docstring")
    (package / "__init__.py").write_text("print 'old'")
    assert prose(["sealed"], 999) == f"{title}\nIndented, .\n"
    assert prose(["sealed"], 7) == title[:7]
    assert code(["sealed"], 999) == "x = 1\nasync def f():\n    pass\n"
    with pytest.raises(DataError, match=r"no docstrings in sealed/a\. Remedy: name"):
        prose(["sealed/a"], 99)
