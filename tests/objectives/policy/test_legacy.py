"""The formulas in use: what each one's gradient is, and which are handed out."""

import jax
import jax.numpy as jnp
import pytest
from documents import ROOT

from kljax.objectives.policy.__main__ import main
from kljax.objectives.policy.certify import Undecided, certify, certify_all
from kljax.objectives.policy.legacy import formula, formulas
from kljax.objectives.policy.space import Space

# By hand, X for local or sequence: with no derivative of the ratio, and with it.
REVERSE, BIASED = ("X reverse", "X reverse"), ("biased", "biased")
DIFFERENCE = ("X reverse - X forward",) * 2
ON_POLICY = {
    ("k1", "loss"): ("zero", "X reverse"),
    ("k1", "reward"): REVERSE,
    ("k1", "reward_to_go"): ("sequence reverse",) * 2,
    ("k1", "straight_through"): ("X reverse", "2 X reverse"),
    ("k2", "loss"): ("X reverse", "biased"),
    ("k2", "reward"): BIASED,
    ("k2", "reward_to_go"): BIASED,
    ("k2", "straight_through"): ("X reverse", "biased"),
    ("k3", "loss"): ("X forward", "X reverse"),
    ("k3", "reward"): DIFFERENCE,
    ("k3", "reward_to_go"): ("sequence reverse - local forward",) * 2,
    ("k3", "straight_through"): ("X reverse", "2 X reverse - X forward"),
    ("abs", "loss"): ("2 X total_variation", "biased"),
    ("abs", "reward"): BIASED,
    ("abs", "reward_to_go"): BIASED,
    ("abs", "straight_through"): ("X reverse", "biased"),
    ("full", "loss"): REVERSE,
    ("full", "reward"): ("zero", "zero"),
    ("full", "reward_to_go"): ("sequence reverse - local reverse",) * 2,
    ("full", "straight_through"): REVERSE,
}


def wanted(one, on_policy):
    constant, differentiated = ON_POLICY[one.estimator, one.placement]
    whole = (one.estimator, one.placement) == ("full", "loss")
    if not on_policy and not whole:
        # One token's ratio does not weigh what comes later; none weighs nothing.
        if one.ratio == "none" or one.placement == "reward_to_go":
            return "biased"
    words = differentiated if one.ratio == "differentiated" else constant
    return words.replace("X", "local" if one.level == "token" else "sequence")


@pytest.mark.parametrize("which", ["on", "off", "another"])
def test_the_full_matrix(spaces, which):
    found = certify_all({one: one for one in formulas()}, spaces[which])
    for one, certificate in found.items():
        assert certificate.label == wanted(one, which == "on"), str(one)
        deaf = (one.estimator, one.placement) == ("k1", "loss")
        assert certificate.teacher != (deaf and one.ratio != "differentiated")
        if certificate.terms is None:
            assert certificate.residual > 1e-3
        else:
            assert certificate.residual <= 1e-10
    assert len(found) == 4 * 7 * 3 + 4 * 3


def test_a_formula_that_is_not_what_it_says_is_refused():
    assert formula("k2", "loss").estimator == "k2"
    with pytest.raises(ValueError, match=r"exactly that of: local forward.*'token'"):
        formula("k3", "loss")
    assert formula("k3", "loss", allow_biased=True).estimator == "k3"
    with pytest.raises(ValueError, match="teacher does not enter it"):
        formula("k1", "loss")
    with pytest.raises(ValueError, match="level must be 'token'"):
        formula("full", "loss", level="sequence")


def test_what_is_nearly_exact_is_undecided(spaces):
    half = lambda log_q, log_p, **_: 0.5 * (log_q - log_p) ** 2
    with pytest.raises(Undecided, match="no small fractions"):
        certify(lambda **x: jnp.pi * half(**x), spaces["on"])
    with pytest.raises(ValueError, match="one loss for each of the 1024"):
        certify(lambda **x: half(**x).mean(), spaces["on"])
    with jax.enable_x64(False), pytest.raises(ValueError, match="float64"):
        certify(half, Space.drawn(jax.random.key(0), 2, 2))


def test_the_command_says_what_is_estimated(capsys):
    assert main(["certify", "--estimator", "k3", "--placement", "loss"]) == 0
    assert "exactly that of: local forward." in capsys.readouterr().out
    assert main(["certify", "--estimator", "k4", "--placement", "loss"]) == 1
    assert "unknown estimator 'k4'" in capsys.readouterr().err


def test_the_committed_page_is_todays(capsys):
    assert main(["matrix"]) == 0
    page = (ROOT / "experiments" / "results" / "policy_gradients.md").read_text()
    assert capsys.readouterr().out == page
