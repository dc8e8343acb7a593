"""The language distillation's own parts: teacher, students, claims, and its export."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from transformer_reference import draw

from experiments import kit
from experiments.papers import lm_distillation as paper
from experiments.papers.lm_distillation import lab
from kljax.data.text import TextConfig
from kljax.models.language.transformer import TransformerConfig
from kljax.training import silent

TINY = dataclasses.replace(
    paper.PRESETS["smoke"],
    methods=("forward_kl",),
    data=TextConfig(packages=("numpy",), files=8, tokens=256, held_out=64, length=16),
    teacher=lab.TeacherConfig(None, width=16, depth=2, heads=2, steps=2, batch=4),
    student=lab.StudentConfig(layers=(0,), text_steps=0, steps=2),
    evaluations=1,
)


@pytest.fixture
def bench(tmp_path):
    study = kit.Study(TINY, tmp_path, silent())
    yield lab.Lab(study)
    study.folder.close()


@pytest.fixture
def taught(bench):
    """The lab with a teacher of three layers and drawn weights."""
    sizes = {"width": 8, "depth": 3, "heads": 2, "max_length": 16}
    model = lab.Model(TransformerConfig(len(bench.corpus.ids), **sizes))
    bench.teacher = model, draw(model.pair[1])
    return bench


def test_stored_states_read_in_a_scan_are_those_of_the_list_of_layers(taught):
    model, params = taught.teacher
    states = taught.states["train"]
    windows = taught.corpus.train[:, :-1]
    assert states.shape == (*windows.shape, 8) and states.dtype == np.float16
    want = jax.jit(model.states)(params, windows)
    np.testing.assert_allclose(states, want, rtol=5e-3, atol=2e-3)


def test_students_start_as_layers_of_the_teacher(taught):
    change = lambda layers: dataclasses.replace(
        TINY, student=dataclasses.replace(TINY.student, layers=layers)
    )
    model, params = taught.teacher
    taught.config = change((0, 2))
    found = taught.initial(jax.random.key(0))
    assert taught.student.config.depth == 2 and sorted(found["layers"]) == [0, 1]
    for mine, theirs in ((0, 0), (1, 2)):
        got, want = found["layers"][mine], params["layers"][theirs]
        jax.tree.map(np.testing.assert_array_equal, got, want)
    del taught.student
    taught.config = change((0, 1, 2))
    tokens = jnp.ones((1, 3), int)
    every = taught.initial(jax.random.key(0))
    got = jax.jit(taught.student.pair[0])(every, tokens)
    want = jax.jit(model.pair[0])(params, tokens)
    np.testing.assert_allclose(got, want, rtol=1e-6)
    del taught.student
    taught.config = change((0, 3))
    with pytest.raises(ValueError, match="the teacher has layers 0 to 2"):
        _ = taught.student


def test_the_student_is_a_folder_that_transformers_loads(bench, tmp_path):
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    sizes = bench.export("forward_kl", 0)
    assert 0 < sizes["student"] < sizes["teacher"]
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "student")
    tokens = bench.corpus.held_out[:2, :-1]
    with torch.no_grad():
        got = loaded(torch.from_numpy(tokens.astype(np.int64))).logits.numpy()
    params = bench.trained("forward_kl", 0)
    want = jax.jit(bench.student.pair[0])(params, tokens)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)
    ids = (tmp_path / "student" / "ids.json").read_text()
    assert ids.strip() == str(bench.corpus.ids.tolist())


def found(shift):
    """Forward and reverse KL on 64 windows; `shift` is how much the first is ahead."""
    random = np.random.default_rng(0)
    common = random.normal(4.0, 1.0, 64)  # windows differ far more than students
    rows = {}
    for method, better in (("forward_kl", shift), ("reverse_kl", 0.0)):
        value = common - better + random.normal(0, 0.05, 64)
        rows[method, 0] = {**dict.fromkeys(paper.TITLES, value), "ece": 0.1}
    fused = {"difference": 1e-6, "fused/temporaries": 1, "dense/temporaries": 4}
    scores = kit.Scores(rows, over="windows", titles=paper.TITLES, bootstrap=True)
    return paper.Found(scores, {"entropy": np.array([3.0])}, fused)


@pytest.mark.parametrize(
    "shift, status, note",
    [
        (0.1, "holds", "the best of the others."),
        (0.0, "fails", "Neither is surely ahead."),
        (-0.1, "fails", "The opposite."),
    ],
)
def test_verdicts_follow_paired_intervals(shift, status, note):
    """A tenth of a nat is decided though the windows' spread is one nat."""
    verdicts = kit.verdicts(paper.CLAIMS, found(shift))
    assert verdicts["COVER"].status == status and verdicts["COVER"].note.endswith(note)
    assert verdicts["SOFT"].status == "not measured"
    assert "text alone" in verdicts["SOFT"].note
    assert verdicts["FUSED"].status == "holds"
