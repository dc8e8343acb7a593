"""Given text, the student's own, or both: shares, shapes, and no gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kljax.objectives.on_policy import mixed_batch, next_token, student_turn

BATCH = {"tokens": jnp.arange(12).reshape(4, 3), "weights": jnp.ones((4, 3))}


def write(key, batch):
    """A student that continues every prompt (column 0) with a draw of its own."""
    drawn = 100 + jax.random.randint(key, batch["tokens"][:, 1:].shape, 0, 10)
    return {**batch, "tokens": batch["tokens"].at[:, 1:].set(drawn)}


def test_next_token_of_prompts_and_padding():
    tokens = np.array([[7, 8, 9, 0], [1, 2, 3, 4]])
    where = np.array([[0, 1, 1, 0], [0, 0, 0, 1]], bool)
    labels, weights = next_token(tokens, where)
    assert labels.tolist() == [[8, 9, -1, -1], [-1, -1, 4, -1]]
    assert weights.tolist() == [[1, 1, 0, 0], [0, 0, 1, 0]]
    labels, weights = next_token(tokens)
    assert labels.tolist() == [[8, 9, 0, -1], [2, 3, 4, -1]] and weights.sum() == 6


@pytest.mark.parametrize("per", ["batch", "example"])
def test_the_student_writes_its_share(per):
    """Over 400 keys; a written row keeps its prompt, a given one is untouched."""

    @jax.jit
    @jax.vmap
    def run(key):
        batch, metrics = mixed_batch(key, BATCH, write, fraction=0.3, per=per)
        return batch["tokens"], metrics["distillation/on_policy"]

    tokens, share = (
        np.asarray(x) for x in run(jax.random.split(jax.random.key(2), 400))
    )
    written = (tokens[:, :, 1:] >= 100).all(-1)
    np.testing.assert_allclose(written.mean(1), share, atol=1e-6)
    assert abs(share.mean() - 0.3) < 4 * np.sqrt(
        0.21 / (400 if per == "batch" else 1600)
    )
    given = np.broadcast_to(BATCH["tokens"], tokens.shape)
    assert (tokens[~written] == given[~written]).all()
    assert (tokens[..., 0] == given[..., 0]).all()
    if per == "batch":
        assert set(written.mean(1)) == {0.0, 1.0}


def test_sampling_is_left_out_where_it_is_not_needed():
    def refuse(key, batch):
        raise AssertionError("sampled")

    key = jax.random.key(0)
    batch, _ = mixed_batch(key, BATCH, refuse, fraction=0)
    assert batch["tokens"].tolist() == BATCH["tokens"].tolist()
    batch, metrics = mixed_batch(key, BATCH, write, fraction=1)
    assert (batch["tokens"][:, 1:] >= 100).all()
    assert metrics["distillation/on_policy"] == 1
    # A traced fraction is a real branch: the batch that is given costs no sampling.
    text = jax.jit(lambda f: mixed_batch(key, BATCH, write, fraction=f)).lower(0.5)
    assert "stablehlo.case" in text.as_text() or "stablehlo.if" in text.as_text()
    turns = jax.jit(jax.vmap(lambda k: student_turn(k, 0.25)))
    shares = turns(jax.random.split(key, 200))
    assert 0.1 < np.mean(shares) < 0.4


def test_nothing_is_differentiated_through_the_sampler():
    soft = lambda key, batch: {"x": 3 * batch["x"]}

    def total(x, fraction):
        batch, _ = mixed_batch(jax.random.key(1), {"x": x}, soft, fraction=fraction)
        return batch["x"].sum()

    for fraction in (0.5, 1.0):
        assert not jax.grad(total)(jnp.ones((2, 2)), fraction).any()


@pytest.mark.parametrize(
    "change, words",
    [
        ({"fraction": 1.5}, "fraction: expected 0 to 1, got 1.5"),
        ({"per": "token"}, "per: expected 'batch' or 'example'"),
        ({"sampler": lambda k, b: {"tokens": b["tokens"]}}, "sampler: must return"),
        ({"sampler": lambda k, b: {**b, "weights": b["tokens"]}}, r"int32\[4, 3\]"),
    ],
)
def test_bad_arguments_are_named(change, words):
    options = {"sampler": write, "fraction": 0.5} | change
    with pytest.raises(ValueError, match=words):
        mixed_batch(jax.random.key(0), BATCH, **options)


def test_bad_tokens_are_named():
    with pytest.raises(TypeError, match="tokens: expected integers"):
        next_token(np.ones((2, 3)))
    with pytest.raises(ValueError, match=r"where: expected \(2, 3\)"):
        next_token(np.ones((2, 3), int), np.ones(3, bool))
