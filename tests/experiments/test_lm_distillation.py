"""The language distillation's own parts: text, teacher, students, judges, verdicts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import references
from transformer_reference import draw

from experiments import lm_distillation as experiment
from experiments.distilled_lm import scores, teachers, verdicts
from experiments.distilled_lm.students import Method, Student, StudentConfig
from kljax.models.language.transformer import TransformerConfig, transformer


@pytest.fixture(scope="module")
def teacher():
    config = TransformerConfig(vocab_size=12, width=8, depth=3, heads=2, max_length=16)
    apply, initial = transformer(config)
    return teachers.Teacher(config, apply, draw(initial))


def test_stored_states_read_in_a_scan_are_those_of_the_list_of_layers(teacher):
    window = np.array([[1, 4, 0, 2, 3]])
    got = references.softmax(jax.jit(teacher.apply)(teacher.params, window))
    rows = np.concatenate([window, window, window])
    done = []
    states = teachers.features(teacher, rows, 2, done.append)
    assert states.shape == (3, 4, 8) and states.dtype == np.float16 and done == [2, 3]
    side = teacher.side(jnp.asarray(states), teacher.head, teacher.bias)
    logits = np.asarray(side.states, np.float64) @ np.asarray(side.head, np.float64)
    np.testing.assert_allclose(references.softmax(logits)[0], got[0, :4], rtol=0.02)


def test_students_start_as_layers_of_the_teacher(teacher):
    student = Student(StudentConfig(layers=(0, 2)), teacher, 16)
    params = student.initial(jax.random.key(0))
    assert student.sizes.depth == 2 and sorted(params["layers"]) == [0, 1]
    for mine, theirs in ((0, 0), (1, 2)):
        got, want = params["layers"][mine], teacher.params["layers"][theirs]
        jax.tree.map(np.testing.assert_array_equal, got, want)
    every = Student(StudentConfig(layers=(0, 1, 2)), teacher, 16)
    found = jax.jit(every.apply)(
        every.initial(jax.random.key(0)), jnp.ones((1, 3), int)
    )
    want = jax.jit(teacher.apply)(teacher.params, jnp.ones((1, 3), int))
    np.testing.assert_allclose(found, want, rtol=1e-6)
    with pytest.raises(ValueError, match="the teacher has layers 0 to 2"):
        Student(StudentConfig(layers=(0, 3)), teacher, 16)
    assert Method.parse("forward_kl/on_policy") == Method("forward_kl", True)
    for name in ("forward_kl/off", "cross_entropy/on_policy", "reverse_kl/"):
        with pytest.raises(ValueError, match="methods: "):
            Method.parse(name)


def evidence(shift):
    """Forward and reverse KL on 64 windows; `shift` is how much the first is ahead."""
    random = np.random.default_rng(0)
    common = random.normal(4.0, 1.0, 64)  # windows differ far more than students
    rows = {}
    for method, better in (("forward_kl", shift), ("reverse_kl", 0.0)):
        value = common - better + random.normal(0, 0.05, 64)
        found = {measure: value.tolist() for measure in scores.MEASURES}
        rows[method, 0] = {**found, "ece": 0.1}
    fused = {"difference": 1e-6, "fused/temporaries": 1, "dense/temporaries": 4}
    teacher = {"nats": [3.0], "entropy": [3.0], "ece": 0.0}
    return verdicts.Evidence(
        {"rows": rows, "teacher": teacher, "start": teacher, "fused": fused,
         "curves": {}, "shown": 8}
    )  # fmt: skip


@pytest.mark.parametrize("shift, holds", [(0.1, True), (0.0, False), (-0.1, False)])
def test_verdicts_follow_paired_intervals(shift, holds):
    """A tenth of a nat is decided though the windows' spread is one nat."""
    found = verdicts.verdicts(evidence(shift), decide=True)
    assert set(found) == {claim.id for claim in experiment.CLAIMS}
    assert found["COVER"].holds is holds
    assert ("The opposite." in found["COVER"].note) == (shift < 0)
    assert ("Not decided." in found["COVER"].note) == (shift == 0)
    assert found["SOFT"].holds is None and "cross_entropy" in found["SOFT"].note
    assert found["FUSED"].holds is True
    low, high = verdicts.resampled(np.zeros(10) + 2.0)
    assert low == high == 2.0
    muted = verdicts.verdicts(evidence(shift), decide=False)
    assert all(verdict.holds is None for verdict in muted.values())
