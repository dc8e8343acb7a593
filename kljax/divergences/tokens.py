"""Losses per token between two sides, whatever form the caller holds them in.

Heads are multiplied in here, a chunk of tokens at a time, so that memory does not grow
with the number of tokens. The target's hidden states may come from a model that runs
beside, or from a cache: they are a few thousand numbers per token where the logits are
a vocabulary.

Target first; `p` is the target and `q` the model. A target that is not differentiated
costs no gradient, and neither does a frozen head or a frozen hidden state. To freeze
one of several arguments, differentiate in the others or use `jax.lax.stop_gradient`.
"""

import math
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from kljax.arguments import floats, rows_shaped, whole
from kljax.divergences import sharded
from kljax.divergences import token_arguments as arguments
from kljax.divergences._arguments import for_rows
from kljax.divergences.categorical import divergence as dense_divergence
from kljax.divergences.sides import Hidden, Logits, Restricted, TopK, dense_logits
from kljax.divergences.token_arguments import Tokens, vocabulary
from kljax.generators import FDivergence, get
from kljax.kernels.linear import fused, recompute, rows
from kljax.kernels.linear.operands import Operands
from kljax.kernels.linear.sharded import Layout
from kljax.kernels.weights import weigh
from kljax.typing import Array, ArrayLike, Bool, Float, Int

__all__ = ["label_cross_entropy", "token_divergence", "top_outcomes"]

Reduction = Literal["mean", "none"]
Implementation = Literal["gradient_in_forward", "recompute"]
Weights = Float[ArrayLike, "*b t"] | Bool[ArrayLike, "*b t"]
Temperature = ArrayLike | tuple[ArrayLike, ArrayLike]


def token_divergence(
    p: Logits | Hidden | TopK | Restricted,
    q: Logits | Hidden,
    divergence: str | FDivergence,
    *,
    labels: Int[ArrayLike, "*b t"] | None = None,
    label_weight: ArrayLike = 0.0,
    divergence_weight: ArrayLike | None = None,
    temperature: Temperature = 1.0,
    weights: Weights | None = None,
    normalizer: ArrayLike | None = None,
    reduction: Reduction = "mean",
    chunk_size: int | None = None,
    implementation: Implementation | None = None,
    pad_vocab: bool = False,
    mesh: Mesh | None = None,
    token_axis: str | None = None,
    vocab_axis: str | None = None,
    **parameters: Any,
) -> Array:
    """``Σ w ((1 − a) D(p‖q) + a (−log q(label))) / normalizer`` over tokens, in nats.

    A model of `Hidden` states runs fused against every target but `Logits`: no logits
    of all tokens exist, and those of a chunk are float32 whatever the inputs are; so
    are all sums over tokens, the heads' gradients included. Every other pair works on
    logits. The numbers agree.

    Args:
      p: the target. Lists have a temperature of their own.
      q: the model.
      divergence: a name of `names()` or an object.
      labels: as in `label_cross_entropy`.
      label_weight: a, a number that may be traced; needs `labels` unless it is 0. That
        part is at temperature 1. At the number 1 the target is not looked at.
      divergence_weight: in place of ``1 − a``, may be traced; Hinton's objective has
        T² in it. A factor of 0 removes its part even where that is infinite.
      temperature: divides the logits, positive; one for both sides or a pair
        ``(target, model)``, from 1e-30 to 1e30; may be traced, and gives NaN if it is
        not positive then. No factor T² is applied. On logits also one per token.
      weights: of the tokens, or a mask. Tokens of weight 0 are put last and cost
        nothing where they fill a chunk; their states and labels may hold anything.
      normalizer: what the sum is divided by; ``Σ w`` when left out. Give the sum over
        the whole batch where this is only a part of it (accumulation, devices).
      reduction: ``"mean"``, or ``"none"`` for the weighted loss of each token.
      chunk_size: tokens, of one device, whose logits exist at a time; chosen from the
        vocabulary when left out: three float32 arrays of them fill 128 MiB (CPU) or
        2 GiB. May be rounded up a little.
      implementation: of the fused form. ``"gradient_in_forward"`` forms the gradient
        along with the value (three products with the model's head, one with the
        target's) and needs ``reduction="mean"``. ``"recompute"`` makes the logits again
        in the backward pass (four and two). Left out: the first for a mean, else the
        second.
      pad_vocab: let the shorter vocabulary end in impossible outcomes. A longer
        target's surplus outcomes then have no counterpart: take them away with its
        bias if they are only padding.
      mesh: devices; arrays are global and may already lie on them. The same numbers as
        on one device, to rounding. Per token the devices exchange three maxima and a
        handful of sums, and no array with a vocabulary axis; the heads' gradients stay
        split.
      token_axis: axis of the mesh over which all tokens (leading axes included) are
        split; None if none.
      vocab_axis: axis over which logits or the heads' columns are split; None if none.
        Not offered for lists, nor for labels of the fused form.
      **parameters: of the divergence, such as ``alpha=0.3``, may be traced; on logits
        also one per token.

    Returns:
      A scalar, or ``[*b, t]`` with ``reduction="none"``; at least float32. 0 without
      tokens or where the normalizer is 0; ``+inf`` where a token's divergence is, and
      that token has gradient 0. NaN, in value and gradient, of a NaN that counts alone:
      a token of weight 0 may hold anything; and of a traced list that counts and whose
      ids are outside or come twice, or whose masses sum to more than 1.01 (1.04 in
      bfloat16).

      Differentiable in every mode and order, and in every argument. For scalar losses
      in reverse mode ``"gradient_in_forward"`` is the faster; ``"recompute"`` is meant
      for forward mode and second derivatives, where forming a gradient is a waste.

    Raises:
      ValueError: shapes that do not fit, vocabularies that differ without `pad_vocab`,
        numbers out of range, unknown names, an implementation that cannot, an axis
        that the mesh has not; lists that are known to be wrong.
      TypeError: a side that is none, or arrays of a wrong type.

    Example:
      >>> import jax.numpy as jnp
      >>> teacher = Hidden(jnp.eye(3, 4), jnp.eye(4, 5))
      >>> student = Hidden(jnp.ones((3, 2)), jnp.zeros((2, 5)))
      >>> round(float(token_divergence(teacher, student, "forward_kl")), 4)
      0.1092
      >>> listed = TopK(jnp.log(jnp.array([[0.5]])), jnp.array([[2]]))
      >>> model = Logits(jnp.zeros((1, 4)))
      >>> float(token_divergence(listed, model, "total_variation"))  # |0.5 − 0.25|
      0.25

    References:
      Hsu et al., "Liger kernel" (2024), for the gradient formed in the forward pass.
      Hinton et al., "Distilling the knowledge in a neural network" (2015), section 2.
    """
    objective = get(divergence, **parameters)
    leaves, structure = jax.tree.flatten(objective)
    arguments.check_sides(p, q)
    arguments.check_fused(chunk_size, implementation, reduction)
    hard, share = arguments.factors(labels, label_weight, divergence_weight)
    alone = arguments.is_number(label_weight, 1) and divergence_weight is None
    if labels is not None and alone:
        return label_cross_entropy(
            labels, q, weights=weights, normalizer=normalizer, reduction=reduction,
            chunk_size=chunk_size, implementation=implementation,
        )  # fmt: skip
    tokens = arguments.tokens_of(q, labels, weights, normalizer, reduction)
    layout = None
    if mesh is not None:
        sharded.check_axes(mesh, token_axis, vocab_axis)
        layout = Layout(mesh, token_axis, vocab_axis)
    if isinstance(q, Hidden) and not isinstance(p, Logits):
        if vocab_axis is not None and not (isinstance(p, Hidden) and hard is None):
            raise ValueError(
                "vocab_axis needs two Hidden sides without labels, or logits: a list "
                "or a label is looked up in the whole vocabulary; use None"
            )
        operands = arguments.linear(p, q, tokens, temperature, pad_vocab)._replace(
            labels=None if hard is None else tokens.labels.reshape(-1),
            label_scale=hard,
            divergence_scale=share,
            parameters=arguments.numbers(objective, leaves),
        )
        return _fused(structure, operands, tokens, chunk_size, implementation, layout)
    loss = _dense(p, q, objective, temperature, tokens, pad_vocab, layout)
    loss = loss if share is None else weigh(share, loss)
    if hard is not None:
        logits = dense_logits(q, tokens.weights)
        own = rows.cross_entropy(logits, tokens.labels, tokens.weights)
        loss += weigh(hard, own)
    return _reduced(loss, tokens)


def label_cross_entropy(
    labels: Int[ArrayLike, "*b"],
    q_logits: Float[ArrayLike, "*b v"] | Logits | Hidden,
    *,
    temperature: ArrayLike = 1.0,
    weights: Float[ArrayLike, "*b"] | Bool[ArrayLike, "*b"] | None = None,
    normalizer: ArrayLike | None = None,
    reduction: Reduction = "none",
    chunk_size: int | None = None,
    implementation: Implementation | None = None,
) -> Array:
    """``w (−log q(label))`` with ``q = softmax(logits)``, in nats; or its mean.

    Args:
      labels: outcomes; a negative one takes its token away, as weight 0 would. One
        beyond the vocabulary raises; traced it has NaN, but not where the weight is 0.
      q_logits: logits of any rank, or a side; `Hidden` states run fused.
      temperature: divides the logits; one number.
      weights, normalizer, chunk_size, implementation: as in `token_divergence`.
      reduction: ``"none"`` or ``"mean"``.

    Returns:
      As in `token_divergence`. A confident prediction keeps its digits.

    Raises:
      ValueError: as in `token_divergence`, or labels of another shape.
      TypeError: as in `token_divergence`, or labels that are not integers.

    Example:
      >>> import jax.numpy as jnp
      >>> loss = label_cross_entropy(jnp.array([0, 3, -100]), jnp.zeros((3, 4)))
      >>> [round(float(x), 4) for x in loss]  # log 4
      [1.3863, 1.3863, 0.0]
    """
    side = q_logits
    if not isinstance(side, Logits | Hidden):
        side = Logits(floats("q_logits", side))
    arguments.check_fused(chunk_size, implementation, reduction)
    tokens = arguments.tokens_of(side, labels, weights, normalizer, reduction)
    warmth = arguments.number("temperature", temperature, 1.0)
    if isinstance(side, Hidden):
        arguments.check_side("q", side, (Hidden,))
        model = arguments.head_side("q", side, warmth)
        w = tokens.weights.reshape(-1)
        operands = Operands(model, weights=w, labels=tokens.labels.reshape(-1))
        return _fused(None, operands, tokens, chunk_size, implementation)
    z = dense_logits(side, tokens.weights)
    z = z if warmth is None else z / warmth.astype(z.dtype)
    return _reduced(rows.cross_entropy(z, tokens.labels, tokens.weights), tokens)


def top_outcomes(
    teacher: Logits | Hidden,
    k: int,
    *,
    temperature: ArrayLike = 1.0,
    chunk_size: int = 256,
) -> TopK:
    """The k likeliest outcomes of a teacher: what to store of a large one.

    Args:
      teacher: logits, or hidden states and head (then chunk by chunk).
      k: how many, from 1 to the vocabulary.
      temperature: of the loss that will use them; divides the logits.
      chunk_size: tokens whose logits exist at a time.

    Returns:
      `TopK` with log-probabilities normalized over the full vocabulary, descending,
      float32 or wider, ids in int32, and the log of what all others have, which keeps
      its digits however confident the teacher is.

    Raises:
      ValueError: `k` or the temperature out of range.
      TypeError: a teacher that is neither form.

    Example:
      >>> listed = top_outcomes(Logits(jnp.log(jnp.array([[0.2, 0.5, 0.3]]))), 2)
      >>> listed.ids.tolist(), jnp.exp(listed.log_p).round(3).tolist()
      ([[1, 2]], [[0.5, 0.30000001192092896]])
    """
    arguments.check_side("teacher", teacher, arguments.MODELS)
    temperature = rows_shaped("temperature", temperature, ())
    vocab = vocabulary(teacher)
    k = whole("k", k)
    if k > vocab:
        raise ValueError(f"k must be 1 to {vocab}, the vocabulary, got {k}")
    chunk_size = whole("chunk_size", chunk_size)

    def listed(part: Array) -> TopK:
        side = teacher._replace(**{teacher._fields[0]: part})
        z = dense_logits(side)
        z = jax.nn.log_softmax(z / temperature.astype(z.dtype), axis=-1)
        log_p, ids = jax.lax.top_k(z, k)
        others = jnp.put_along_axis(z, ids, -jnp.inf, axis=-1, inplace=False)
        return TopK(log_p, ids, jax.nn.logsumexp(others, axis=-1))

    given = jnp.asarray(teacher[0])
    flat = given.reshape(-1, given.shape[-1])
    size = max(1, min(chunk_size, len(flat)))
    padded = jnp.pad(flat, ((0, -len(flat) % size), (0, 0)))
    found = jax.lax.map(listed, padded.reshape(-1, size, flat.shape[-1]))
    lead = given.shape[:-1]

    def joined(x: Array) -> Array:
        return x.reshape(-1, *x.shape[2:])[: len(flat)].reshape(*lead, *x.shape[2:])

    return TopK(*map(joined, found))


# --------------------------------------------------------------------- on logits
def _dense(p, q, objective, temperature, tokens: Tokens, pad_vocab, layout) -> Array:
    """The divergence of each token, not weighted."""
    weights = tokens.weights
    z = dense_logits(q, weights)
    if isinstance(p, TopK | Restricted):
        lists = arguments.list_side(p, tokens, z.shape[-1])
        warmth = rows_shaped("temperature", temperature, tokens.shape)
        return _list_rows(for_rows(objective, tokens.shape), lists, z, warmth, weights)
    target = dense_logits(p, weights)
    if isinstance(temperature, tuple):
        both = arguments.temperatures(temperature)
        target, z = (
            x if t is None else x / t.astype(x.dtype) for x, t in zip((target, z), both)
        )
        temperature = 1.0
    options = {"temperature": temperature, "pad_vocab": pad_vocab}
    if layout is None:
        return dense_divergence(target, z, objective, **options)
    axes = {"token_axis": layout.tokens, "vocab_axis": layout.vocab}
    return sharded.divergence_sharded(
        target, z, objective, mesh=layout.mesh, **axes, **options
    )


@jax.jit
def _list_rows(objective, lists, q, temperature, weights):
    warmth = temperature[..., None] if temperature.ndim else temperature
    q = q / warmth.astype(q.dtype)
    return rows.list_divergence(objective, lists, q, weights)


def _reduced(loss: Array, tokens: Tokens) -> Array:
    if tokens.reduction == "none":
        return loss if tokens.weights is None else weigh(tokens.weights, loss)
    w = fused.wide_weights(tokens.weights, tokens.shape, loss.dtype)
    return _mean(jnp.sum(weigh(w, loss)), w, tokens)


def _mean(total: Array, weights: Array, tokens: Tokens) -> Array:
    """0 where the divisor is; without derivative where the total is infinite."""
    divisor = jnp.sum(weights) if tokens.normalizer is None else tokens.normalizer
    divisor = divisor.astype(weights.dtype)
    nothing, infinite = divisor == 0, jnp.isinf(total)
    finite = jnp.where(infinite, 0, total) / jnp.where(nothing, 1, divisor)
    bound = jax.lax.stop_gradient(total) * jnp.where(divisor < 0, -1, 1)
    return jnp.where(nothing, 0, jnp.where(infinite, bound, finite))


# ----------------------------------------------------------------------- on heads
def _fused(
    structure, operands: Operands, tokens: Tokens, chunk_size, implementation,
    layout=None,
) -> Array:  # fmt: skip
    plan, operands = fused.planned(structure, operands, chunk_size, layout)
    if 0 in tokens.shape:
        shape = () if tokens.reduction == "mean" else tokens.shape
        return jnp.zeros(shape, operands.weights.dtype)
    if tokens.reduction == "mean" and implementation != "recompute":
        total = fused.weighted_sum(plan, operands)
        return _mean(total, operands.weights, tokens)
    found = recompute.weighted_rows(plan, operands)[: math.prod(tokens.shape)]
    if tokens.reduction == "none":
        return found.reshape(tokens.shape)
    return _mean(jnp.sum(found), operands.weights, tokens)
