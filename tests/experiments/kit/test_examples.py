"""The examples in docstrings of the experiments' rooms."""

import doctest
import importlib

import pytest


@pytest.mark.parametrize(
    "name",
    ["discovery", "harness", *(f"kit.{x}" for x in (
        "scores", "stages", "titles"))],
)  # fmt: skip
def test_examples_give_what_they_say(name):
    found = doctest.testmod(importlib.import_module(f"experiments.{name}"))
    assert found.attempted and not found.failed
