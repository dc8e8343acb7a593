"""Scores: units, levels of a factor, what is lacking and what is misspelt."""

import numpy as np
import pytest

from experiments import kit
from experiments.kit.display import Display

RANDOM = np.random.default_rng(0)
VALUES = RANDOM.normal(size=(2, 3, 4, 5))  # method, seed, level, window
METHODS, LEVELS = ("a", "b"), ("add", "sort", "days", "none")


def scores(over):
    rows = {
        (m, s, level): {"x": VALUES[i, s, k], "one": VALUES[i, s, k, 0]}
        for i, m in enumerate(METHODS)
        for s in range(3)
        for k, level in enumerate(LEVELS)
    }
    return kit.Scores(rows, over=over, factor="tasks", titles={"x": "points, %"})


@pytest.mark.parametrize(
    "over, axes", [("seeds", (2, 3)), ("tasks", (1, 3)), ("windows", (1, 2))]
)
def test_units_are_what_the_scores_are_over(over, axes):
    gap = scores(over).difference("x", "a", "b")
    want = (VALUES[0] - VALUES[1]).mean(axis=tuple(axis - 1 for axis in axes))
    np.testing.assert_allclose(gap.units, want)
    assert gap.over == over
    one = over.removesuffix("s")
    assert gap.what == f"points, %, a minus b, paired by {one}"


def test_levels_are_scores_of_their_own():
    found = scores("seeds")
    assert found.levels == LEVELS and found.at("sort").levels == (None,)
    means = found.by_level(lambda s: s.mean("x", "b"))
    assert means == pytest.approx(dict(zip(LEVELS, VALUES[1].mean(axis=(0, 2)))))
    np.testing.assert_allclose(found.by_levels("x", "b"), VALUES[1].mean(axis=-1))
    bar = kit.holds_for(3, kit.above(0))
    assert not bar.test({"a": 1.0, "b": -1.0, "c": 2.0})
    assert bar.test({"a": 1.0, "b": 3.0, "c": 2.0})
    assert bar.remark({"a": 1.0, "b": -1.0}) == "Holds for a."
    with pytest.raises(kit.Missing, match="needs dates among the tasks"):
        found.at("dates")
    key = "a/sort/x"
    assert found.flat()[key] == pytest.approx(VALUES[0, :, 1].mean(axis=1).tolist())


def test_what_was_not_run_is_missing_and_a_slip_is_an_error():
    found = kit.Scores(
        {("a", 0): {"acc": 1.0, "ece": 0.1}, ("b", 0): {"acc": 2.0}, ("a", 1):
         {"acc": 3.0, "ece": 0.2}, ("b", 1): {"acc": 4.0}}
    )  # fmt: skip
    with pytest.raises(kit.Missing, match="needs forward KL among the methods"):
        found.difference("acc", "a", "forward_kl")
    with pytest.raises(kit.Missing, match="needs ece of b"):
        found.mean("ece", "b")
    with pytest.raises(KeyError, match="did you mean 'acc'"):
        found.mean("ac", "a")
    with pytest.raises(ValueError, match="method, seed"):
        kit.Scores({("a", 0, "x"): {}})
    assert found.best("acc") == "b" and found.best("acc", lowest=True) == "a"
    assert found.extreme("acc") == 4 and found.extreme("acc", lowest=True) == 1
    assert found.part(["b", "c"]).methods == ("b",)
    with pytest.raises(kit.Missing, match="needs a method with acc"):
        found.part(["c"]).best("acc")


def test_what_is_averaged_is_said_once():
    assert scores("seeds").averaged() == (
        "Means over 3 seeds and 4 tasks; intervals are over seeds."
    )
    one = kit.Scores({("a", 0): {"x": 1.0}})
    assert one.averaged() == "Means over 1 seed: no intervals."


def test_a_row_of_another_length_is_an_error(tmp_path):
    display = Display(tmp_path)
    display.table("Whole", ("x", "y"), [(1, 2), (3, None)])
    with pytest.raises(ValueError, match=r"'Short' has 2 columns and rows of \[1\]"):
        display.table("Short", ("x", "y"), [(1, 2), (1,)])
    assert [table.title for table in display.tables] == ["Whole"]


def test_pictures_of_a_run_that_decides_nothing_say_so(tmp_path):
    for decides in (True, False):
        display = Display(tmp_path, decides=decides)
        with display.figure("one", "Ours is best", "What is drawn") as axis:
            axis.plot([0, 1])
        (made,) = display.figures
        assert (made.title == "Ours is best") == decides
        assert "Ours is best" in made.title and ("nothing" in made.title) != decides
        assert (tmp_path / "one.png").is_file()


def test_a_setting_is_chosen_on_other_seeds():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(4, 6))
    pick = kit.tuned(values)
    for seed in range(6):
        others = np.delete(values, seed, axis=1).mean(axis=1)
        assert pick[seed] == others.argmax()
        changed = values.copy()
        changed[:, seed] = rng.normal(size=4) * 100
        assert kit.tuned(changed)[seed] == pick[seed]
    assert kit.tuned(values[:, :1])[0] == values[:, 0].argmax()  # there are no others
    values[pick[0], 1] = np.nan
    assert kit.tuned(values)[0] != pick[0]


def test_where_a_curve_reaches_a_level():
    x = np.array([[0.0, 0.0, 3.0], [2.0, 1.0, 4.0], [1.0, 1.5, 5.0], [4.0, 1.8, 5.0]])
    y = np.arange(12.0).reshape(4, 3)
    found = kit.at_level(x, y, np.array([1.0, 2.0, 2.0]))
    assert found[0] == 1.5 and np.isnan(found[1]) and found[2] == 2
