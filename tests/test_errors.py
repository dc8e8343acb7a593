"""What is said about a name that no table holds."""

import pytest

from kljax.errors import unknown


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("forward-KL", " did you mean 'forward_kl'?"),
        ("foward_kl", " did you mean 'forward_kl'?"),
        ("renyi", ""),
        ("", ""),
        (3, ""),
    ],
)
def test_unknown_names_what_was_asked_the_nearest_and_all(name, hint):
    known = (one for one in ("forward_kl", "alpha"))
    expected = f"unknown divergence {name!r};{hint} known: forward_kl, alpha"
    assert unknown("divergence", name, known) == expected
