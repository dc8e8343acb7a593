"""The benchmark of estimators: its laws are what they say, its page follows numbers."""

import json

import numpy as np
import pytest

from experiments.benchmarks import estimators
from experiments.benchmarks.estimators import peers
from experiments.benchmarks.estimators.cases import Case, truth
from experiments.benchmarks.estimators.families import FAMILIES

ANSWERED = [name for name, family in FAMILIES.items() if not family.refused]


@pytest.mark.parametrize("name", ANSWERED)
def test_laws_draw_from_their_densities_and_closed_forms_are_right(name):
    pair = Case(name, max(3, FAMILIES[name].least), 100, 0.1, 5).pair
    rng = np.random.default_rng(0)
    x, y = (law.sample(rng, 20_000) for law in (pair.p, pair.q))
    v = pair.p.log_density(x) - pair.q.log_density(x)
    # E_q[sqrt(p/q)] = E_p[sqrt(q/p)]: each side draws from what it says.
    halves = np.exp(-v / 2), np.exp((pair.p.log_density(y) - pair.q.log_density(y)) / 2)
    error = np.hypot(*(h.std() / np.sqrt(len(h)) for h in halves))
    assert abs(halves[0].mean() - halves[1].mean()) < 4.5 * error + 1e-9
    assert 0.05 < v.mean() < 0.2
    if pair.kl is not None:
        assert v.mean() == pytest.approx(pair.kl, abs=4.5 * v.std() / np.sqrt(len(v)))


def test_cases_repeat_and_equal_laws_are_equal():
    one, same = (Case("mixtures", 2, 50, 0.0, 3) for _ in range(2))
    np.testing.assert_array_equal(one.samples()[0], same.samples()[0])
    assert truth(one).value == 0
    other = Case("mixtures", 2, 50, 0.0, 4)
    assert not np.array_equal(one.samples()[0], other.samples()[0])


def test_there_are_two_hundred_cases_and_all_families():
    found = list(estimators.cases(estimators.PRESETS["cpu"]))
    assert len(set(found)) == len(found) >= 200
    assert {case.family for case in found} == set(FAMILIES)


def test_peers_are_near_the_truth_where_it_is_easy():
    rng = np.random.default_rng(1)
    x_p, x_q = rng.normal(1.0, 1, (600, 1)), rng.normal(size=(600, 1))
    for name, peer in peers.PEERS.items():
        value, error = peer(x_p, x_q, 0)
        assert value == pytest.approx(0.5, abs=0.3), name
        assert 0 < error < 0.2, name


def test_a_run_stores_its_cases_and_writes_a_page(tmp_path):
    paths = estimators.study("smoke", tmp_path)
    assert {path.name for path in paths} == {"smoke.jsonl", "README.md", "errors.png"}
    lines = (tmp_path / "smoke.jsonl").read_text().splitlines()
    rows = {row["family"]: row for row in map(json.loads, lines)}
    assert set(rows) == {"Gaussian, mean", "discrete chain", "disjoint boxes"}
    assert rows["disjoint boxes"]["found"]["kljax"]["value"] is None
    text = (tmp_path / "README.md").read_text()
    assert "| disjoint boxes | 1 | 100% |" in text
    row = rows["Gaussian, mean"]
    ours = row["found"]["kljax"]["value"] - row["truth"]
    assert f"{abs(ours):.3f}" in text
    # A whole run begins anew, one that was cut off is gone on with.
    (tmp_path / "smoke.jsonl").write_text(lines[0] + "\n")
    left = estimators.left("smoke", tmp_path)
    assert len(left) == 2 and json.loads(lines[0])["seed"] not in {c.seed for c in left}
