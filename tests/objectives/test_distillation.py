"""Distillation at every token: values, forms that agree, and where gradients flow."""

import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import references

from kljax.divergences import Hidden, Logits, TopK, top_outcomes
from kljax.objectives import distillation
from kljax.objectives.distillation import distillation_loss
from kljax.training import Loss, Player, init_state, jit_step, make_step

B, T, V = 2, 3, 7
RNG = np.random.default_rng(5)
P_STATES, P_HEAD = RNG.normal(size=(B, T, 5)), RNG.normal(size=(5, V))
Q_STATES, Q_HEAD = RNG.normal(size=(B, T, 4)), RNG.normal(size=(4, V))
P_BIAS = np.where(np.arange(V) == 2, -np.inf, RNG.normal(size=V))
LABELS = np.array([[1, 0, 6], [3, -1, 4]])
WEIGHTS = np.array([[1.0, 2.0, 0.5], [1.0, 1.0, 0.0]])
KEPT = np.where(LABELS >= 0, WEIGHTS, 0)  # what is left with labels
P, Q = P_STATES @ P_HEAD + P_BIAS, Q_STATES @ Q_HEAD
TEACHER, STUDENT = Hidden(P_STATES, P_HEAD, P_BIAS), Hidden(Q_STATES, Q_HEAD)


def close(got, want, relative=1e-6, absolute=1e-10):
    np.testing.assert_allclose(np.asarray(got), want, rtol=relative, atol=absolute)


def reference(z, name, temperature, share, scaled=True):
    """Hinton's mixture per token, float64, from student logits z."""
    p, q = (references.softmax(x / temperature) for x in (P, z))
    soft = references.VALUES[name](p, q) * (temperature**2 if scaled else 1)
    hard = -np.log(references.softmax(z))
    hard = np.take_along_axis(hard, np.maximum(LABELS, 0)[..., None], -1)[..., 0]
    return (1 - share) * soft + share * hard


@pytest.mark.parametrize("name", ["forward_kl", "jensen_shannon"])
def test_hinton_mixture_and_its_gradient_by_definition(name, x64):
    mixture = {"temperature": 1.5, "scale_by_temperature": True, "label_weight": 0.3}

    @jax.jit
    def run(z):
        def loss(z):
            return distillation_loss(
                Logits(P), Logits(z), divergence=name, labels=LABELS, weights=WEIGHTS,
                **mixture,
            )  # fmt: skip

        out, pull = jax.vjp(loss, z)
        # All ones: the metrics must carry no gradient.
        return *out, *pull(jax.tree.map(jnp.ones_like, out))

    value, metrics, got = run(jnp.asarray(Q))
    rows = lambda z: reference(z, name, 1.5, 0.3)
    close(value, (KEPT * rows(Q)).sum(1) / KEPT.sum(1))
    close(metrics["distillation/loss"], (KEPT * rows(Q)).sum() / KEPT.sum())
    assert metrics["distillation/tokens"] == KEPT.sum()
    parts = [
        (KEPT * reference(Q, name, 1.5, share, scaled=False)).sum() / KEPT.sum()
        for share in (0, 1)
    ]
    close(metrics["distillation/divergence"], parts[0])
    close(metrics["distillation/cross_entropy"], parts[1])
    weight = (KEPT / KEPT.sum(1, keepdims=True))[..., None]
    close(got, weight * references.gradient(rows, Q), 1e-6, 1e-9)


@pytest.mark.parametrize(
    "share, reduction",
    [(0.0, "token"), (0.4, "mean"), (1.0, "mean")],
)
def test_fused_and_dense_agree_in_value_and_gradient(share, reduction, x64):
    """Every pair of forms, soft-capped, biased, weighted; and the teacher is frozen."""
    options = {
        "divergence": "skew_reverse_kl", "beta": 0.2, "temperature": 2.0,
        "weights": WEIGHTS, "labels": None if share == 0 else LABELS,
        "label_weight": share, "reduction": reduction,
    }  # fmt: skip
    capped = 3 * np.tanh(P_STATES @ P_HEAD / 3)

    def total(teacher, student):
        loss, metrics = distillation_loss(teacher, student, **options)
        return jnp.sum(loss), metrics["distillation/loss"]

    run = jax.jit(jax.value_and_grad(total, argnums=(0, 1), has_aux=True))
    fused = run(Hidden(P_STATES, P_HEAD, None, 3.0), STUDENT)
    (value, mean), (in_teacher, in_student) = fused
    (dense_value, dense_mean), (in_p, in_q) = run(Logits(capped), Logits(Q))
    close(value, dense_value)
    close(mean, dense_mean)
    close(in_student.states, in_q.values @ Q_HEAD.T, 1e-6, 1e-9)
    close(in_student.head, np.einsum("btd,btv->dv", Q_STATES, in_q.values), 1e-6, 1e-9)
    for leaf in jax.tree.leaves((in_teacher, in_p)):
        assert not np.asarray(leaf).any()
    if share == 1:  # a pair without a kernel
        close(run(Logits(capped), STUDENT)[0][0], dense_value)


def test_topk_teacher_is_the_full_one_over_coarser_outcomes(x64):
    k, temperature = 3, 1.5
    stored = top_outcomes(TEACHER, k, temperature=temperature, chunk_size=4)
    full = references.softmax(P / temperature)
    ids = np.argsort(-full, -1)[..., :k]
    assert stored.ids.tolist() == ids.tolist()
    close(np.exp(stored.log_p), np.take_along_axis(full, ids, -1))
    close(top_outcomes(Logits(P), k, temperature=temperature).log_p, stored.log_p)

    def coarse(x):
        picked = np.take_along_axis(x, ids, -1)
        return np.concatenate([picked, 1 - picked.sum(-1, keepdims=True)], -1)

    soft = references.jensen_shannon(
        coarse(full), coarse(references.softmax(Q / temperature))
    )
    options = {"temperature": temperature, "weights": WEIGHTS, "labels": LABELS}
    options |= {"divergence": "jensen_shannon", "label_weight": 0.5}
    want = KEPT * (0.5 * soft + 0.5 * reference(Q, "forward_kl", 1.0, 1.0))

    def mean(teacher, student):
        loss, _ = distillation_loss(teacher, student, reduction="mean", **options)
        return loss

    close(jax.jit(mean)(stored, STUDENT), want.sum() / KEPT.sum())
    close(jax.jit(mean)(stored, Logits(Q)), want.sum() / KEPT.sum())
    moving = lambda log_p: mean(stored._replace(log_p=log_p), Logits(Q))
    zero = jax.jit(lambda x: jax.jvp(moving, (x,), (jnp.ones_like(x),))[1])
    assert zero(stored.log_p) == 0


def test_tokens_without_weight_may_be_anything(x64):
    """Masked tokens with infinite or absurd losses leave no trace, NaN never."""
    impossible = np.full((B, T, V), -np.inf)
    impossible[..., 2] = 0  # all of the target's mass where the student has none
    z = np.where(np.arange(V) == 2, -np.inf, Q)
    where = np.array([[True, False, False], [False, False, False]])
    p = np.where(where[..., None], P, impossible)

    def loss(z):
        value, metrics = distillation_loss(Logits(p), Logits(z), weights=where)
        return value.sum(), (value, metrics)

    run = jax.jit(jax.grad(loss, has_aux=True))
    gradient, (value, metrics) = run(jnp.asarray(z))
    want = references.kl(references.softmax(P), references.softmax(z))[0, 0]
    close(value, [want, 0])
    close(metrics["distillation/divergence"], want)
    assert np.isfinite(gradient).all() and not gradient[1].any()


def test_parts_of_a_batch_add_up_to_the_whole():
    """A normalizer of the whole batch, or token counts as the step's weights."""
    options = {"weights": WEIGHTS, "labels": LABELS, "label_weight": 0.5}
    dense = Logits(Q_STATES @ Q_HEAD)

    @jax.jit
    def part(i):
        row = lambda x: jax.lax.dynamic_slice_in_dim(jnp.asarray(x), i, 1)
        teacher = TEACHER._replace(states=row(P_STATES))
        inside = {k: row(v) for k, v in options.items() if k != "label_weight"}
        return [
            distillation_loss(
                teacher, student, reduction="mean", normalizer=KEPT.sum(),
                label_weight=0.5, **inside,
            )[0]
            for student in (STUDENT._replace(states=row(Q_STATES)), Logits(row(Q)))
        ]  # fmt: skip

    @jax.jit
    def together():
        reductions = ("mean", "sequence", "token")
        return [
            distillation_loss(TEACHER, dense, reduction=r, **options)[0]
            for r in reductions
        ]

    whole, rows, tokens = together()
    np.testing.assert_allclose(np.add(part(0), part(1)), [whole, whole], rtol=1e-5)
    counts = KEPT.sum(1)
    np.testing.assert_allclose((rows * counts).sum() / counts.sum(), whole, rtol=1e-5)
    again = distillation.per_sequence(tokens, KEPT)
    np.testing.assert_allclose(again, rows, rtol=1e-6)


def test_token_losses_under_the_teacher_sum_to_the_kl_of_sequences(x64):
    """Chain rule by enumeration; and the sequence-level loss is its sampled form."""
    p_first, q_first = RNG.normal(size=(2, 3))
    p_next, q_next = RNG.normal(size=(2, 3, 3))  # conditioned on the first token
    p1, q1 = references.softmax(p_first), references.softmax(q_first)
    p2, q2 = references.softmax(p_next), references.softmax(q_next)
    words = np.array(list(itertools.product(range(3), repeat=2)))
    p_y, q_y = ((a[:, None] * b).reshape(-1) for a, b in ((p1, p2), (q1, q2)))
    rows = lambda first, after: Logits(
        np.stack([np.broadcast_to(first, (9, 3)), after[words[:, 0]]], 1)
    )

    @jax.jit
    def run(p, q):
        losses, _ = distillation_loss(p, q, reduction="token")
        return losses, *distillation.sequence_level_loss(q, words, reduction="token")

    losses, nll, metrics = run(rows(p_first, p_next), rows(q_first, q_next))
    close((p_y * np.asarray(losses).sum(1)).sum(), references.kl(p_y, q_y))
    close(-np.asarray(nll).sum(1), np.log(q_y))
    close((p_y * np.asarray(nll).sum(1)).sum(), references.kl(p_y, q_y)
          - (p_y * np.log(p_y)).sum())  # fmt: skip
    close(metrics["distillation/cross_entropy"], np.mean(nll))


def test_cached_half_precision_states_do():
    """Stored in bfloat16, the teacher's states give float32 losses close by."""
    cached = TEACHER._replace(states=jnp.asarray(P_STATES, jnp.bfloat16))

    @jax.jit
    def run(teacher):
        return distillation_loss(teacher, STUDENT, reduction="mean")[0]

    assert run(cached).dtype == jnp.float32
    np.testing.assert_allclose(run(cached), run(TEACHER), rtol=0.03)


def test_one_program_for_schedules_of_all_numbers():
    @jax.jit
    @chex.assert_max_traces(n=1)
    def run(temperature, share, beta):
        return distillation_loss(
            TEACHER, STUDENT, divergence="jensen_shannon", beta=beta, labels=LABELS,
            temperature=temperature, label_weight=share, scale_by_temperature=True,
        )[0]  # fmt: skip

    first, second = run(1.0, 0.0, 0.5), run(2.0, 0.7, 0.1)
    assert np.isfinite(first).all() and np.isfinite(second).all()
    ended = run(1.0, 1.0, 0.5)
    want = (reference(Q, "forward_kl", 1.0, 1.0) * (LABELS >= 0)).sum(1)
    np.testing.assert_allclose(ended, want / (LABELS >= 0).sum(1), rtol=1e-5)


@pytest.mark.inspected
def test_fused_form_needs_no_logits_of_all_tokens():
    """Deterministic: temporaries of the compiled gradient, 2,048 tokens x 4,096."""
    n, v, d = 2048, 4096, 32
    shapes = ((1, n, d), (d, v), (1, n, d), (d, v))

    def gradient(form):
        def mean(states, head, p_states, p_head):
            sides = form(p_states, p_head), form(states, head)
            return distillation_loss(*sides, reduction="mean", chunk_size=128)[0]

        arrays = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
        compiled = jax.jit(jax.grad(mean, (0, 1))).lower(*arrays).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    fused = gradient(Hidden)
    assert fused < 24 * 2**20  # the logits alone are 32 MiB, of each side


def test_overfits_one_batch_through_the_step():
    """A table of logits per context reaches the teacher in a training step."""
    tokens = np.arange(B * T).reshape(B, T)
    teacher = Hidden(jnp.asarray(P_STATES, "float32"), jnp.asarray(P_HEAD, "float32"))

    def loss(params, *, state, frozen, batch, key):
        student = Hidden(params["table"][batch["tokens"]], params["head"])
        mean, metrics = distillation_loss(
            frozen, student, divergence="jeffreys", reduction="mean"
        )
        return Loss(None, metrics, mean=mean)

    player = Player("student", loss, optax.adam(0.15))
    params = {
        "table": jnp.asarray(RNG.normal(size=(B * T, 6)), "float32"),
        "head": jnp.asarray(RNG.normal(size=(6, V)) / 3, "float32"),
    }
    state = init_state(jax.random.key(1), {"student": params}, [player])
    step = jit_step(make_step([player]))
    for _ in range(150):
        state, metrics = step(state, {"tokens": tokens}, teacher)
    assert float(metrics["distillation/divergence"]) < 1e-3
    fitted = state.params["student"]["table"][tokens] @ state.params["student"]["head"]
    np.testing.assert_array_equal(fitted.argmax(-1), (P_STATES @ P_HEAD).argmax(-1))


@pytest.mark.parametrize(
    "change, words",
    [
        ({"reduction": "sum"}, "unknown reduction 'sum'; known: sequence, token"),
        ({"normalizer": 3.0}, "normalizer needs reduction"),
        ({"label_weight": 0.5}, "label_weight 0.5 needs labels"),
        ({"label_weight": 1.5, "labels": LABELS}, "label_weight must be 0 to 1"),
        ({"temperature": 0.0}, "temperature must be positive, got 0.0"),
        ({"labels": LABELS[:1], "label_weight": 0.5}, r"labels must be \(2, 3\)"),
        ({"weights": WEIGHTS[0]}, r"weights must be \(2, 3\), one per token"),
        ({"divergence": "forward"}, "forward_kl"),
    ],
)
def test_bad_numbers_are_named(change, words):
    with pytest.raises(ValueError, match=words):
        distillation_loss(TEACHER, STUDENT, **change)


def test_bad_sides_are_named():
    with pytest.raises(TypeError, match="student must be Logits or Hidden"):
        distillation_loss(TEACHER, TopK(P, LABELS))
    with pytest.raises(TypeError, match="teacher must be Logits or Hidden or TopK"):
        distillation_loss(P, STUDENT)
    with pytest.raises(ValueError, match=r"p has tokens \(2, 2\) and q \(2, 3\)"):
        distillation_loss(TEACHER._replace(states=P_STATES[:, 1:]), STUDENT)
    with pytest.raises(ValueError, match=r"student must be .*tokens"):
        distillation_loss(TEACHER, Logits(P[0, 0]))
    with pytest.raises(ValueError, match="pad_vocab=True"):
        distillation_loss(Logits(P[..., :4]), STUDENT)
    with pytest.raises(TypeError, match="labels must be integers"):
        distillation.sequence_level_loss(STUDENT, LABELS * 1.0)
    with pytest.raises(ValueError, match="k must be 1 to 7"):
        top_outcomes(TEACHER, 8)
    with pytest.raises(ValueError, match="does not take states of width 4"):
        top_outcomes(Hidden(Q_STATES, P_HEAD), 2)
