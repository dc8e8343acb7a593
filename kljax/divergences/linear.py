"""Losses of linear heads: from hidden states, without the logits of all tokens.

The heads are multiplied in here, a chunk of tokens at a time, so that memory does not
grow with the number of tokens. The target's hidden states may come from a model that
runs beside, or from a cache: they are a few thousand numbers per token where the logits
are a vocabulary.

Target first; `p` is the target and `q` the model. A target that is not differentiated
costs no gradient, and neither does a frozen head or a frozen hidden state. To freeze
one of several arguments, differentiate in the others or use `jax.lax.stop_gradient`.
"""

from typing import Any, Literal

from kljax.divergences import _linear_arguments as arguments
from kljax.fdivergence import FDivergence
from kljax.generators import get
from kljax.kernels.linear import rows
from kljax.typing import Array, ArrayLike, Bool, Float, Int

Pair = arguments.Pair
Reduction = Literal["mean", "none"]
Implementation = Literal["gradient_in_forward", "recompute"]
Weights = Float[ArrayLike, "*b t"] | Bool[ArrayLike, "*b t"]


def linear_divergence(
    divergence: str | FDivergence,
    *,
    p_hidden: Float[ArrayLike, "*b t d_p"],
    p_head: Float[ArrayLike, "d_p v"],
    q_hidden: Float[ArrayLike, "*b t d_q"],
    q_head: Float[ArrayLike, "d_q v"],
    p_bias: Float[ArrayLike, "v"] | None = None,
    q_bias: Float[ArrayLike, "v"] | None = None,
    temperature: Pair = 1.0,
    soft_cap: Pair = None,
    weights: Weights | None = None,
    normalizer: ArrayLike | None = None,
    reduction: Reduction = "mean",
    chunk_size: int | None = None,
    implementation: Implementation | None = None,
    pad_vocab: bool = False,
    **parameters: Any,
) -> Array:
    """``Σ w D(p‖q) / normalizer`` of ``p, q = softmax(hidden @ head + bias)``, in nats.

    The logits are float32 whatever the inputs are; so are all sums over tokens, the
    heads' gradients included.

    Args:
      divergence: a name of `names()` or an object.
      p_hidden, q_hidden: hidden states of target and model, equal but for the width.
      p_head, q_head: matrices from the width to the vocabulary.
      p_bias, q_bias: added to the logits; ``-inf`` takes an outcome away.
      temperature: divides the logits, positive; one for both sides or a pair
        ``(target, model)``, from 1e-30 to 1e30; may be traced, and gives NaN if it is
        not positive then. No factor T² is applied.
      soft_cap: c of ``c · tanh(z/c)``, applied after the bias and before the
        temperature; positive, one for both sides or a pair; None leaves the logits.
      weights: of the tokens, or a mask. Tokens of weight 0 are put last and cost
        nothing where they fill a chunk; their states and labels may hold anything.
      normalizer: what the sum is divided by; ``Σ w`` when left out. Give the sum over
        the whole batch where this is only a part of it (accumulation, devices).
      reduction: ``"mean"``, or ``"none"`` for ``w D`` of each token.
      chunk_size: tokens whose logits exist at a time; chosen from the vocabulary when
        left out: three float32 arrays of them fill 128 MiB (CPU) or 2 GiB. May be
        rounded up a little.
      implementation: ``"gradient_in_forward"`` forms the gradient along with the
        value (three products with the model's head, one with the target's) and needs
        ``reduction="mean"``. ``"recompute"`` makes the logits again in the backward
        pass (four and two). Left out: the first for a mean, else the second.
      pad_vocab: let the shorter vocabulary end in impossible outcomes. A longer
        target's surplus outcomes then have no counterpart: take them away with
        ``p_bias`` if they are only padding.
      **parameters: of the divergence, such as ``alpha=0.3``, may be traced.

    Returns:
      A scalar, or ``[*b, t]`` with ``reduction="none"``; at least float32. 0 without
      tokens or where the normalizer is 0; ``+inf`` where a token's divergence is, and
      that token has gradient 0. NaN, in value and gradient, of a NaN that counts alone:
      a token of weight 0 may hold anything.

      Both implementations are differentiable in every mode and in every argument. For
      scalar losses in reverse mode the first is the faster; ``"recompute"`` is meant
      for forward mode and second derivatives, where forming a gradient is a waste.

    Raises:
      ValueError: shapes that do not fit, vocabularies that differ without `pad_vocab`,
        numbers out of range, unknown names, an implementation that cannot.
      TypeError: hidden states or heads that are not floating point.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> teacher, student = jnp.eye(3, 4), jnp.ones((3, 2))
      >>> loss = linear_divergence("forward_kl", p_hidden=teacher, p_head=jnp.eye(4, 5),
      ...                          q_hidden=student, q_head=jnp.zeros((2, 5)))
      >>> round(float(loss), 4)
      0.1092

    References:
      Hsu et al., "Liger kernel" (2024), for the gradient formed in the forward pass.
    """
    objective = get(divergence, **parameters)
    operands = {
        **arguments.side("p", p_hidden, p_head, p_bias),
        **arguments.side("q", q_hidden, q_head, q_bias),
        **arguments.temperature(temperature),
        **arguments.pair("cap", "soft_cap", soft_cap, None),
    }
    arguments.check_vocab(operands, pad_vocab)
    return arguments.run(
        rows.divergence_rows, objective, operands, weights, normalizer, reduction,
        chunk_size, implementation,
    )  # fmt: skip


def linear_mixture(
    divergence: str | FDivergence,
    *,
    labels: Int[ArrayLike, "*b t"],
    cross_entropy_scale: ArrayLike,
    divergence_scale: ArrayLike,
    p_hidden: Float[ArrayLike, "*b t d_p"],
    p_head: Float[ArrayLike, "d_p v"],
    q_hidden: Float[ArrayLike, "*b t d_q"],
    q_head: Float[ArrayLike, "d_q v"],
    p_bias: Float[ArrayLike, "v"] | None = None,
    q_bias: Float[ArrayLike, "v"] | None = None,
    temperature: Pair = 1.0,
    soft_cap: Pair = None,
    weights: Weights | None = None,
    normalizer: ArrayLike | None = None,
    reduction: Reduction = "mean",
    chunk_size: int | None = None,
    implementation: Implementation | None = None,
    pad_vocab: bool = False,
    **parameters: Any,
) -> Array:
    """A cross-entropy to labels and a divergence, from one set of logits.

    ``cross_entropy_scale · (−log q(label)) + divergence_scale · D(p‖q)`` per token. The
    cross-entropy is at temperature 1, the divergence at `temperature`.

    Args:
      labels: as in `linear_cross_entropy`.
      cross_entropy_scale, divergence_scale: numbers, may be traced. One of 0 removes
        its part even where that is infinite; Hinton's objective has T² in the second.
      divergence and all others: as in `linear_divergence`.

    Returns:
      As in `linear_divergence`.

    Raises:
      ValueError, TypeError: as in `linear_divergence` and `linear_cross_entropy`.

    Example:
      >>> import jax.numpy as jnp
      >>> side = dict(p_hidden=jnp.ones((3, 2)), p_head=jnp.zeros((2, 4)),
      ...             q_hidden=jnp.ones((3, 2)), q_head=jnp.zeros((2, 4)))
      >>> loss = linear_mixture("forward_kl", labels=jnp.array([0, 1, -1]), **side,
      ...                       cross_entropy_scale=0.5, divergence_scale=0.5)
      >>> round(float(loss), 4)  # ½ log 4
      0.6931

    References:
      Hinton et al., "Distilling the knowledge in a neural network" (2015), §2.
    """
    objective = get(divergence, **parameters)
    operands = {
        **arguments.side("p", p_hidden, p_head, p_bias),
        **arguments.side("q", q_hidden, q_head, q_bias),
        **arguments.temperature(temperature),
        **arguments.pair("cap", "soft_cap", soft_cap, None),
    }
    arguments.check_vocab(operands, pad_vocab)
    hidden, vocab = operands["q_hidden"], operands["q_head"].shape[1]
    found, weights = arguments.labels(labels, hidden, vocab, weights)
    operands |= {
        **found,
        **arguments.scalar("hard_scale", "cross_entropy_scale", cross_entropy_scale),
        **arguments.scalar("soft_scale", "divergence_scale", divergence_scale),
    }
    return arguments.run(
        rows.mixture_rows, objective, operands, weights, normalizer, reduction,
        chunk_size, implementation,
    )  # fmt: skip


def linear_cross_entropy(
    labels: Int[ArrayLike, "*b t"],
    *,
    q_hidden: Float[ArrayLike, "*b t d"],
    q_head: Float[ArrayLike, "d v"],
    q_bias: Float[ArrayLike, "v"] | None = None,
    temperature: ArrayLike = 1.0,
    soft_cap: ArrayLike | None = None,
    weights: Weights | None = None,
    normalizer: ArrayLike | None = None,
    reduction: Reduction = "mean",
    chunk_size: int | None = None,
    implementation: Implementation | None = None,
) -> Array:
    """``Σ w (−log q(label)) / normalizer``, ``q = softmax(hidden @ head + bias)``.

    Args:
      labels: outcomes; a negative one takes its token away, as weight 0 would. One
        beyond the vocabulary raises; traced it has NaN, but not where the weight is 0.
      q_hidden, q_head, ...: as in `linear_divergence`, of the model alone.

    Returns:
      As in `linear_divergence`.

    Raises:
      ValueError: as in `linear_divergence`, or labels of another shape.
      TypeError: as in `linear_divergence`, or labels that are not integers.

    Example:
      >>> import jax.numpy as jnp
      >>> model = dict(q_hidden=jnp.ones((3, 2)), q_head=jnp.zeros((2, 4)))
      >>> loss = linear_cross_entropy(jnp.array([0, 3, -100]), **model)
      >>> round(float(loss), 4)  # log 4
      1.3863
    """
    operands = _model(q_hidden, q_head, q_bias, temperature, soft_cap)
    hidden, vocab = operands["q_hidden"], operands["q_head"].shape[1]
    found, weights = arguments.labels(labels, hidden, vocab, weights)
    return arguments.run(
        rows.label_rows, None, {**operands, **found}, weights, normalizer, reduction,
        chunk_size, implementation,
    )  # fmt: skip


def linear_topk(
    divergence: str | FDivergence,
    *,
    log_p_topk: Float[ArrayLike, "*b t k"],
    ids: Int[ArrayLike, "*b t k"],
    log_tail: Float[ArrayLike, "*b t"] | None = None,
    q_hidden: Float[ArrayLike, "*b t d"],
    q_head: Float[ArrayLike, "d v"],
    q_bias: Float[ArrayLike, "v"] | None = None,
    temperature: ArrayLike = 1.0,
    soft_cap: ArrayLike | None = None,
    weights: Weights | None = None,
    normalizer: ArrayLike | None = None,
    reduction: Reduction = "mean",
    chunk_size: int | None = None,
    implementation: Implementation | None = None,
    **parameters: Any,
) -> Array:
    """`linear_divergence` from k listed outcomes of the target and one for the others.

    As `topk` does, it counts all that is not listed as one outcome more: a lower bound
    on the divergence of the full rows, and never negative.

    Args:
      log_p_topk: log-probabilities of the target at `ids`, normalised over the full
        vocabulary, at the temperature of the divergence.
      ids: outcomes, distinct within a token, in ``[0, v)``.
      log_tail: log of what all other outcomes have, ``[*b, t]``, as in `topk`.
      temperature, soft_cap: of the model alone.
      divergence and all others: as in `linear_divergence`.

    Returns:
      As in `linear_divergence`.

    Raises:
      ValueError: as in `linear_divergence`, or lists that do not fit, that are known
        to be no such outcomes or to sum to more than 1. Traced ones give NaN.
      TypeError: as in `linear_divergence`, or ids that are not integers.

    Example:
      >>> import jax.numpy as jnp
      >>> loss = linear_topk("total_variation", log_p_topk=jnp.log(jnp.array([[0.5]])),
      ...                    ids=jnp.array([[2]]), q_hidden=jnp.ones((1, 2)),
      ...                    q_head=jnp.zeros((2, 4)))
      >>> round(float(loss), 4)  # |0.5 − 0.25|
      0.25
    """
    objective = get(divergence, **parameters)
    operands = _model(q_hidden, q_head, q_bias, temperature, soft_cap)
    hidden, vocab = operands["q_hidden"], operands["q_head"].shape[1]
    operands |= arguments.topk(log_p_topk, ids, hidden, vocab, weights, log_tail)
    return arguments.run(
        rows.topk_rows, objective, operands, weights, normalizer, reduction,
        chunk_size, implementation,
    )  # fmt: skip


def linear_topk_renormalized(
    divergence: str | FDivergence,
    *,
    log_p_topk: Float[ArrayLike, "*b t k"],
    ids: Int[ArrayLike, "*b t k"],
    q_hidden: Float[ArrayLike, "*b t d"],
    q_head: Float[ArrayLike, "d v"],
    q_bias: Float[ArrayLike, "v"] | None = None,
    temperature: ArrayLike = 1.0,
    soft_cap: ArrayLike | None = None,
    weights: Weights | None = None,
    normalizer: ArrayLike | None = None,
    reduction: Reduction = "mean",
    chunk_size: int | None = None,
    implementation: Implementation | None = None,
    **parameters: Any,
) -> Array:
    """`linear_divergence` between both sides given that the outcome is a listed one.

    It does not see how much the model puts elsewhere; `linear_topk` does.

    Args:
      log_p_topk: logits or log-probabilities of the target at `ids`.
      ids and all others: as in `linear_topk`.

    Returns:
      As in `linear_divergence`.

    Raises:
      ValueError, TypeError: as in `linear_topk`.

    Example:
      >>> import jax.numpy as jnp
      >>> loss = linear_topk_renormalized(
      ...     "total_variation", log_p_topk=jnp.log(jnp.array([[0.5]])),
      ...     ids=jnp.array([[2]]), q_hidden=jnp.ones((1, 2)), q_head=jnp.zeros((2, 4)))
      >>> float(loss)  # one outcome, certain on both sides
      0.0
    """
    objective = get(divergence, **parameters)
    operands = _model(q_hidden, q_head, q_bias, temperature, soft_cap)
    hidden, vocab = operands["q_hidden"], operands["q_head"].shape[1]
    operands |= arguments.topk(
        log_p_topk, ids, hidden, vocab, weights, normalized=False
    )
    return arguments.run(
        rows.renormalized_rows, objective, operands, weights, normalizer, reduction,
        chunk_size, implementation,
    )  # fmt: skip


def _model(hidden, head, bias, temperature, soft_cap) -> dict[str, Array]:
    return {
        **arguments.side("q", hidden, head, bias),
        **arguments.number("q_temperature", "temperature", temperature, 1.0),
        **arguments.number("q_cap", "soft_cap", soft_cap, None),
    }
