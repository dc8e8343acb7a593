"""Losses per token between two sides, whatever form the caller holds them in.

Heads are multiplied in here, a chunk of tokens at a time, so that memory does not grow
with the number of tokens. The target's hidden states may come from a model that runs
beside, or from a cache: they are a few thousand numbers per token where the logits are
a vocabulary.

Target first; `p` is the target and `q` the model. A target that is not differentiated
costs no gradient, and neither does a frozen head or a frozen hidden state. To freeze
one of several arguments, differentiate in the others or use `jax.lax.stop_gradient`.
"""

from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from kljax.arguments import rows_shaped
from kljax.divergences import _token_arguments as arguments
from kljax.divergences import sharded
from kljax.divergences._arguments import for_rows
from kljax.divergences.categorical import divergence as dense_divergence
from kljax.divergences.categorical import floating
from kljax.divergences.sides import (
    Hidden,
    Logits,
    Restricted,
    TopK,
    check_side,
    dense_logits,
    vocabulary,
)
from kljax.generators import FDivergence, get
from kljax.kernels.linear import fused, recompute, rows
from kljax.kernels.linear.operands import Operands
from kljax.kernels.linear.sharded import Layout
from kljax.kernels.logits.referenced import sharpness_of
from kljax.kernels.weights import weigh
from kljax.typing import Array, ArrayLike, Bool, Float, Int

__all__ = ["label_cross_entropy", "token_divergence"]

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
    check_side("p", p, (Logits, Hidden, TopK, Restricted))
    check_side("q", q, (Logits, Hidden))
    arguments.check_reduction(reduction, normalizer, implementation)
    if labels is None and not arguments.is_number(label_weight, 0):
        raise ValueError(f"label_weight {label_weight} needs labels, got None")
    shape = jnp.shape(q[0])[:-1]
    if jnp.shape(p[0])[:-1] != shape:
        raise ValueError(
            f"p has tokens {jnp.shape(p[0])[:-1]} and q {shape}; they must agree"
        )
    alone = arguments.is_number(label_weight, 1) and divergence_weight is None
    if labels is not None and alone:
        return label_cross_entropy(
            labels, q, weights=weights, normalizer=normalizer, reduction=reduction,
            chunk_size=chunk_size, implementation=implementation,
        )  # fmt: skip
    layout = None
    if mesh is not None:
        sharded.check_axes(mesh, token_axis, vocab_axis)
        layout = Layout(mesh, token_axis, vocab_axis)
    known, w = arguments.labels_and_weights(labels, weights, shape, vocabulary(q))
    factors = _factors(label_weight, divergence_weight)
    if isinstance(q, Hidden) and not isinstance(p, Logits):
        if vocab_axis is not None and not (
            isinstance(p, Hidden) and factors[0] is None
        ):
            raise ValueError(
                "vocab_axis needs two Hidden sides without labels, or logits: a list "
                "or a label is looked up in the whole vocabulary; use None"
            )
        operands = _operands(p, q, temperature, w, pad_vocab)
        operands = operands._replace(
            labels=None if factors[0] is None else known.reshape(-1),
            label_scale=factors[0],
            divergence_scale=factors[1],
        )
        return _fused(
            operands, objective, shape, w, normalizer, reduction, chunk_size,
            implementation, layout,
        )  # fmt: skip
    soft = _dense(p, q, objective, temperature, w, pad_vocab, layout)
    loss = soft if factors[1] is None else weigh(factors[1], soft)
    if factors[0] is not None:
        hard = rows.cross_entropy(dense_logits(q, w), known, w)
        loss += weigh(factors[0], hard)
    return _reduced(loss, w, normalizer, reduction)


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
    arguments.check_reduction(reduction, normalizer, implementation)
    side = q_logits
    if not isinstance(side, Logits | Hidden):
        side = Logits(floating("q_logits", side))
    shape = jnp.shape(side[0])[:-1]
    known, w = arguments.labels_and_weights(labels, weights, shape, vocabulary(side))
    warmth = arguments.number("temperature", temperature, 1.0)
    if isinstance(side, Hidden):
        model = arguments.head_side("q", side, warmth)
        operands = Operands(model, labels=known.reshape(-1))
        return _fused(
            operands, None, shape, w, normalizer, reduction, chunk_size, implementation
        )
    z = dense_logits(side, w)
    z = z if warmth is None else z / warmth.astype(z.dtype)
    return _reduced(rows.cross_entropy(z, known, w), w, normalizer, reduction)


def _factors(label_weight, divergence_weight) -> tuple[Array | None, Array | None]:
    """Of the labels' part and of the divergence; None: no such part; or a 1."""
    plain = arguments.is_number(label_weight, 0)
    hard = None if plain else arguments.scalar("label_weight", label_weight)
    if divergence_weight is not None:
        return hard, arguments.scalar("divergence_weight", divergence_weight)
    return hard, None if hard is None else 1 - hard


# --------------------------------------------------------------------- on logits
def _dense(p, q, objective, temperature, weights, pad_vocab, layout) -> Array:
    """The divergence of each token, not weighted."""
    z = dense_logits(q, weights)
    if isinstance(p, TopK | Restricted):
        lead = z.shape[:-1]
        lists = arguments.list_side(p, lead, z.shape[-1], weights)
        warmth = rows_shaped("temperature", temperature, lead)
        return _list_rows(for_rows(objective, lead), lists, z, warmth, weights)
    target = dense_logits(p, weights)
    if isinstance(temperature, tuple):
        given = arguments.pair("temperature", temperature)
        warmth = [arguments.number("temperature", t) for t in given]
        target, z = (
            x if t is None else x / t.astype(x.dtype)
            for x, t in zip((target, z), warmth)
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


def _reduced(loss, weights, normalizer, reduction) -> Array:
    if reduction == "none":
        return loss if weights is None else weigh(weights, loss)
    w, divisor = arguments.weights_and_divisor(
        weights, normalizer, loss.shape, loss.dtype
    )
    return arguments.quotient(jnp.sum(weigh(w, loss)), divisor)


# ----------------------------------------------------------------------- on heads
def _operands(p, q, temperature, weights, pad_vocab) -> Operands:
    """Both sides as the kernel takes them."""
    shape, vocab = jnp.shape(q.states)[:-1], vocabulary(q)
    if not isinstance(p, Hidden):
        cold = arguments.number("temperature", temperature, 1.0)
        model = arguments.head_side("q", q, cold)
        lists = arguments.list_side(p, shape, vocab, weights)
        flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[len(shape) :]), lists)
        return Operands(model, flat)
    sharpness, both = None, (None, None)
    if isinstance(temperature, tuple):
        given = arguments.pair("temperature", temperature)
        both = [arguments.number("temperature", t, 1.0) for t in given]
    elif (t := arguments.number("temperature", temperature, 1.0)) is not None:
        sharpness = sharpness_of(t)
    target, model = (
        arguments.head_side(name, side, t)
        for name, side, t in zip(("p", "q"), (p, q), both)
    )
    if vocabulary(p) != vocab and not pad_vocab:
        raise ValueError(
            f"p.head {target.head.shape} has {vocabulary(p)} outcomes and q.head "
            f"{model.head.shape} has {vocab}; pad_vocab=True treats the missing ones "
            "as impossible"
        )
    return Operands(model, target, sharpness=sharpness)


def _fused(
    operands: Operands, objective, shape, weights, normalizer, reduction, size,
    implementation, layout=None,
) -> Array:  # fmt: skip
    dtype = fused.accumulator(operands)
    w, divisor = arguments.weights_and_divisor(weights, normalizer, shape, dtype)
    if w.size == 0:
        return jnp.zeros(() if reduction == "mean" else shape, divisor.dtype)
    operands = operands._replace(
        weights=w.reshape(-1), parameters=arguments.parameters(objective)
    )
    tokens, vocab = w.size, operands.q.head.shape[1]
    if layout is not None:
        operands = layout.padded(operands)
        tokens = operands.weights.shape[0] // layout.size(layout.tokens)
        vocab = operands.q.head.shape[1] // layout.size(layout.vocab)
    chunk = arguments.chunk_size(size, tokens, vocab)
    structure = None if objective is None else jax.tree.structure(objective)
    plan = fused.make_plan(structure, chunk, vocab, weights is not None, layout)
    if reduction == "mean" and implementation != "recompute":
        return arguments.quotient(fused.weighted_sum(plan, operands), divisor)
    found = recompute.weighted_rows(plan, operands)[: w.size]
    if reduction == "none":
        return found.reshape(shape)
    return arguments.quotient(jnp.sum(found), divisor)
