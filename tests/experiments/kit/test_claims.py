"""Bars and verdicts: text, outcome, interval and words follow from value and bar."""

import numpy as np
import pytest

from experiments import kit
from experiments.kit.claims import digest


def scores(shift=0.0):
    random = np.random.default_rng(0)
    common = random.normal(size=12)
    own = {"a": common + shift, "b": common + 0.1 * random.normal(size=12)}
    rows = {(m, s): {"x": own[m][s]} for m in own for s in range(12)}
    return kit.Scores(rows, titles={"x": "points"})


def claim(value, bar=None, **more):
    return kit.Claim("A", "a leads", "ours", value, bar or kit.above(0), **more)


def verdict(one, evidence, **options):
    return kit.verdicts([one], evidence, **options)["A"]


GAP = claim(lambda s: s.difference("x", "a", "b"), kit.interval_above(0))


@pytest.mark.parametrize(
    "shift, status, note",
    [
        (0.3, "holds", ""),
        (0.0, "fails", "Neither is surely ahead."),
        (-0.3, "fails", "The opposite."),
    ],
)
def test_a_verdict_follows_from_value_and_bar(shift, status, note):
    found = verdict(GAP, scores(shift))
    assert (found.status, found.note) == (status, note)
    assert found.interval.endswith(", 12 seeds")
    assert found.measure == "points, a minus b, paired by seed"
    open_ = verdict(GAP, scores(shift), decide=False)
    assert open_.status == "undecided" and open_.measured == found.measured
    assert GAP.stored()["bar"] == "95 % interval above 0"


def test_the_five_states():
    missing = verdict(claim(lambda s: s.mean("x", "c")), scores())
    assert missing.status == "not measured" and "needs c among" in missing.note
    shown = verdict(claim(lambda s: 3.0, kit.shown(), measure="m"), scores())
    assert shown.status == "shown" and shown.measured == "3"
    one = kit.Scores({("a", 0): {"x": 1.0}, ("b", 0): {"x": 0.5}})
    alone = verdict(GAP, one)
    assert alone.status == "undecided" and alone.note.startswith("Undecided: no inter")
    short = verdict(claim(lambda s: kit.Noted(3.0, "N.", "too short")), scores())
    assert (short.status, short.measured) == ("undecided", "3")
    assert short.note == "N. Undecided: too short."
    with pytest.raises(KeyError, match="metric 'y'"):
        verdict(claim(lambda s: s.mean("y", "a")), scores())


def test_words_of_what_was_measured_stand_at_the_value():
    def gap(found):
        """Largest gap
        of norms."""
        return kit.Noted(1e-7, "A remark.")

    found = verdict(claim(gap, kit.at_most(1e-4)), None)
    assert (found.measure, found.note) == ("Largest gap of norms", "A remark.")
    named = claim(
        lambda s: {"one": s.estimate("x", "a"), "two": s.ratio_of_means("x", "a", "b")},
        kit.all_of(one=kit.above(-9), two=kit.shown()),
        measure="On digits",
    )
    found = verdict(named, scores(1.0))
    assert found.measure == ("On digits: points, a; points, a over b, ratio of means")
    assert found.measured.startswith("one ") and ", two " in found.measured
    assert found.interval.count(" to ") == 2


@pytest.mark.parametrize(
    "bar, value, holds, text",
    [
        (kit.at_most(1.1), 1.1, True, "<= 1.1"),
        (kit.at_most(1.1), float("nan"), False, "<= 1.1"),
        (kit.above(1.1), 1.1, False, "> 1.1"),
        (kit.at_least(4, "of 4"), 4, True, ">= 4 of 4"),
        (kit.within(0.9, 1.1), 1.0, True, "in [0.9, 1.1]"),
        (kit.near(0.5, rel=0.1), 0.56, False, "within 10 % of 0.5"),
        (kit.near(0.5, tol=0.1), 0.56, True, "within 0.1 of 0.5"),
        (kit.all_of(a=kit.equal(8), b_c=kit.below(1)), {"a": 8, "b_c": 2}, False,
         "a = 8, b c < 1"),
        (kit.every(kit.below(1)), {"a": 0, "b": 2}, False, "each < 1"),
        (kit.order("x", "y"), [1, 2], True, "x < y"),
        (kit.both(kit.at_least(1), kit.below(3)), 3, False, ">= 1 and < 3"),
    ],
)  # fmt: skip
def test_bars(bar, value, holds, text):
    assert bar.test(value) is holds and str(bar) == text


def test_order_of_estimates_wants_every_step_to_be_sure():
    random = np.random.default_rng(1)
    base = random.normal(size=9)
    ones = [kit.Estimate((base + gap,)) for gap in (0.0, 0.1, 0.2)]
    assert kit.order("x", "y", "z").test(ones)
    noisy = kit.Estimate((base + random.normal(size=9),))
    bar = kit.order("x", "y")
    assert not bar.test([ones[0], noisy]) and bar.remark([ones[0], noisy])


def test_a_moved_bar_changes_the_digest():
    moved = claim(GAP.value, kit.interval_above(0.1))
    assert digest([GAP]) == digest([GAP]) != digest([moved])
