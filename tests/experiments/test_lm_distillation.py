"""The language distillation's own parts: text, teacher, students, judges, verdicts."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import references
from transformer_reference import draw

from experiments import lm_distillation as experiment
from experiments.distilled_lm import corpus, scores, teachers, verdicts
from experiments.distilled_lm.students import Method, Student, StudentConfig
from kljax.errors import DataError
from kljax.models.language.transformer import TransformerConfig, transformer

WORDS = [f"Paragraph {i} tells something about a number, no more." for i in range(60)]


@pytest.fixture(scope="module")
def teacher():
    config = TransformerConfig(vocab_size=12, width=8, depth=3, heads=2, max_length=16)
    apply, initial = transformer(config)
    return teachers.Teacher(config, apply, draw(initial))


def test_paragraphs_count_once_and_windows_overlap_by_a_token():
    texts = ["\n\n".join([*WORDS[:3], WORDS[1], "tiny"]), WORDS[2], WORDS[3]]
    kept = list(corpus.fresh(iter(texts)))
    assert kept == ["\n\n".join(WORDS[:3]), WORDS[3]]
    encode = lambda text: [len(word) for word in text.split()]
    rows, characters = corpus.windows(iter(kept), encode, 99, 12, 4)
    flat = [99, *encode(kept[0]), 99, *encode(kept[1])][:13]
    assert rows.tolist() == [flat[0:5], flat[4:9], flat[8:13]]
    assert characters == pytest.approx(len(kept[0]) / len(encode(kept[0])))
    with pytest.raises(DataError, match=r"the text has \d+ tokens and 4001 are needed"):
        corpus.windows(iter(kept), encode, 99, 4000, 4)


def test_own_text_is_split_by_file_and_trimmed_to_what_occurs(tmp_path):
    for i in range(0, len(WORDS), 2):
        (tmp_path / f"{i}.txt").write_text("\n\n".join(WORDS[i : i + 2]))
    config = corpus.DataConfig(
        path=str(tmp_path), tokens=512, held_out=64, length=16, seed=3
    )
    found = corpus.read_corpus(config, teachers.Bytes.encode, 0)
    assert found.train.shape == (32, 17) and found.held_out.shape == (4, 17)
    used = np.union1d(found.train, found.held_out)
    assert used.tolist() == list(range(len(found.ids)))  # every id occurs
    assert found.sha256 == corpus.read_corpus(config, teachers.Bytes.encode, 0).sha256

    def numbers(rows):
        text = "".join(map(chr, found.ids[rows[:, :-1].reshape(-1)]))
        return {part.split()[0] for part in text.split("graph ")[1:-1]}

    assert numbers(found.train) and not numbers(found.train) & numbers(found.held_out)
    with pytest.raises(DataError, match="no text file there"):
        corpus.read_corpus(
            corpus.DataConfig(path=str(tmp_path / "none")), teachers.Bytes.encode, 0
        )
    with pytest.raises(DataError, match="package nowhere_to_be_found is not installed"):
        next(corpus.docstrings(["nowhere_to_be_found"], 0))


SENTENCES = [f"Number {i} of the sentences that someone wrote down." for i in range(99)]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.txt", "\n\n".join(SENTENCES)),
        ("a.txt", "\n\n".join(SENTENCES[:12])),
        ("a.txt", "\r\n".join(SENTENCES)),
        ("a.txt", "Title\n\n" + "\n".join(SENTENCES)),
        ("a.txt", "\n".join(" ".join(SENTENCES).split(" "))),
        ("a.txt", " ".join(SENTENCES)),
        ("a.txt", "".join(SENTENCES).replace(" ", "")),
        ("a.jsonl", "\n".join(f'{{"text": "{one}"}}' for one in SENTENCES)),
        ("a.jsonl", f'{{"text": "{" ".join(SENTENCES)}"}}'),
    ],
)
def test_one_file_gives_both_splits(tmp_path, name, text):
    """Whatever parts it into paragraphs; and no sentence is in both."""
    (tmp_path / name).write_bytes(text.encode())
    config = corpus.DataConfig(
        path=str(tmp_path / name), tokens=384, held_out=64, length=16
    )
    found = corpus.read_corpus(config, teachers.Bytes.encode, 0)
    assert found.train.shape == (24, 17) and found.held_out.shape == (4, 17)
    letters = [
        "".join(map(chr, found.ids[rows[:, :-1].reshape(-1)]))
        for rows in (found.train, found.held_out)
    ]
    numbers = [set(re.findall(r"umber\s*(\d+)\s*of", one)) for one in letters]
    assert all(numbers) and not numbers[0] & numbers[1]


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        (
            {"held_out": 9_999},
            r"held-out text has \d+ tokens and 9985 .*\(624 .*lower data.held_out,",
        ),
        (
            {"tokens": 9_999},
            r"training text has \d+ tokens and 9985 .*lower data.tokens,",
        ),
        ({"held_out": 15}, "data.held_out is 15, and one window is data.length = 16"),
        ({"tokens": 0}, "data.tokens is 0"),
        ({"length": 0}, "at least one token"),
    ],
)
def test_the_split_that_is_too_small_is_named(tmp_path, sizes, message):
    (tmp_path / "a.txt").write_text("\n\n".join(SENTENCES))
    config = corpus.DataConfig(
        **({"path": str(tmp_path), "tokens": 64, "held_out": 64, "length": 16} | sizes)
    )
    with pytest.raises(DataError, match=message):
        corpus.read_corpus(config, teachers.Bytes.encode, 0)


def test_docstrings_of_a_package_without_importing_it(tmp_path, monkeypatch):
    texts = list(corpus.docstrings(["kljax"], seed=1, files=3))
    assert len(texts) == 3
    again = list(corpus.docstrings(["kljax"], seed=1, files=3))
    assert texts == again and texts != list(corpus.docstrings(["kljax"], 2, 3))
    package = tmp_path / "brittle_package"
    (package / "tests").mkdir(parents=True)
    (package / "__init__.py").write_text('"""Read, not run."""\nraise SystemExit')
    (package / "old.py").write_text("print 'no such Python'")
    (package / "escape.py").write_text('def f():\n    """Do it."""\n    "\\d"')
    (package / "tests" / "test_it.py").write_text('"""Not this one."""')
    monkeypatch.syspath_prepend(tmp_path)
    texts = corpus.docstrings(["brittle_package"], seed=0)
    assert sorted(texts) == ["", "Do it.", "Read, not run."]


def test_trimmed_teacher_is_the_law_given_the_kept_ids(teacher):
    """And its stored states, read in a scan, are those of the list of layers."""
    ids = np.array([0, 2, 3, 7, 11])
    small = teachers.trimmed(teacher.config, teacher.params, ids)
    window = np.array([[1, 4, 0, 2, 3]])
    full = np.asarray(jax.jit(teacher.apply)(teacher.params, ids[window]))
    kept = references.softmax(full)[..., ids]
    got = references.softmax(jax.jit(small.apply)(small.params, window))
    np.testing.assert_allclose(got, kept / kept.sum(-1, keepdims=True), rtol=1e-4)
    rows = np.concatenate([window, window, window])
    done = []
    states = np.concatenate(list(teachers.features(small, rows, 2, done.append)))
    assert states.shape == (3, 4, 8) and states.dtype == np.float16 and done == [2, 3]
    side = small.side(jnp.asarray(states), small.head, small.bias)
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


def test_measures_by_definition():
    random = np.random.default_rng(2)
    p, q = random.normal(size=(2, 3, 5, 9)) * 2
    labels = random.integers(0, 9, (3, 5))
    found = jax.jit(scores.token_measures)(p, q, labels)
    assert set(found) == set(scores.MEASURES)
    a, b = references.softmax(p), references.softmax(q)
    want = {name: references.VALUES[name](a, b) for name in scores.DISTANCES}
    want |= {
        "nats": -np.log(np.take_along_axis(b, labels[..., None], -1)[..., 0]),
        "entropy": -(b * np.log(b)).sum(-1),
        "agreement": a.argmax(-1) == b.argmax(-1),
        "accuracy": b.argmax(-1) == labels,
        "confidence": b.max(-1),
    }
    for name, value in want.items():
        np.testing.assert_allclose(found[name], value, rtol=2e-5, atol=1e-6)


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
