"""Distillation of language models: a student q learns from a teacher p at every token.

    loss_t = (1 - a) s D(p_t || q_t) + a (-log q_t(label_t)),    s = 1 or T^2,

with any divergence D at a temperature T. Both sides are sides of `kljax.divergences`:
`Logits`, `Hidden` (states and a head, which are multiplied chunk by chunk and never
give an array of tokens times vocabulary), and for a teacher also lists. A teacher's
hidden states or lists may be stored beforehand. Nothing flows back into a teacher.

Known methods are settings: word-level distillation is ``divergence="forward_kl"``;
Hinton's objective ``scale_by_temperature=True`` with a label weight; MiniLLM's and
DistiLLM's divergences ``"reverse_kl"`` and ``"skew_forward_kl"``; generalized
distillation any of these on batches of `kljax.objectives.on_policy`; and sequence-level
distillation is `sequence_level_loss` on text that the teacher wrote.
"""

from typing import Any, Literal

import jax
import jax.numpy as jnp

from kljax.arguments import as_array, floating
from kljax.divergences import (
    Hidden,
    Logits,
    Restricted,
    TopK,
    get,
    label_cross_entropy,
    token_divergence,
)
from kljax.divergences.token_arguments import check_side, is_number
from kljax.errors import unknown
from kljax.generators import FDivergence
from kljax.kernels.weights import weigh
from kljax.typing import Array, ArrayLike, Bool, Float, Int

__all__ = ["distillation_loss", "per_sequence", "sequence_level_loss"]

Metrics = dict[str, Array]
Reduction = Literal["sequence", "token", "mean"]
Weights = Float[ArrayLike, "*b t"] | Bool[ArrayLike, "*b t"]
REDUCTIONS = ("sequence", "token", "mean")


Teacher = Logits | Hidden | TopK | Restricted
Student = Logits | Hidden


def distillation_loss(
    teacher: Teacher,
    student: Student,
    *,
    divergence: str | FDivergence = "forward_kl",
    temperature: ArrayLike = 1.0,
    scale_by_temperature: bool = False,
    labels: Int[ArrayLike, "*b t"] | None = None,
    label_weight: ArrayLike = 0.0,
    weights: Weights | None = None,
    reduction: Reduction = "sequence",
    normalizer: ArrayLike | None = None,
    chunk_size: int | None = None,
    pad_vocab: bool = False,
    **parameters: Any,
) -> tuple[Float[Array, "*b"], Metrics]:
    """``(1 - a) s D(p || q) + a (-log q(label))`` of every token, in nats.

    The divergence is `kljax.divergences.token_divergence`: a `Hidden` student runs
    fused against a teacher that is not `Logits`, and no logits of all tokens exist.

    Args:
      teacher: the target p; no gradient flows into it. Its last position predicts what
        the student's last position predicts.
      student: the model q.
      divergence: a name of `kljax.divergences.names()` or an object.
      temperature: T > 0, divides both sides' logits in D (for `TopK` the student's, the
        list has its own); may be traced. The labels' part is at temperature 1.
      scale_by_temperature: s = T^2, so that D's gradient keeps its size at any T; else
        s = 1.
      labels: the next token of each position, as `next_token` gives it. A negative one
        takes its token away, as weight 0 does.
      label_weight: a in [0, 1], the labels' share; needs `labels` unless it is 0. May
        be traced. At the number 1 the teacher is not looked at.
      weights: of the tokens, >= 0, or a mask: False for prompts and padding.
      reduction: ``"sequence"``, the weighted mean over the tokens of each sequence;
        ``"token"``, weight times loss of each token; ``"mean"``, the weighted mean
        over everything, the fastest for two `Hidden` sides (the gradient is formed
        along with the value).
      normalizer: with ``"mean"``, what the sum is divided by instead of the sum of the
        weights: give the whole batch's where this is only a part of it.
      chunk_size: tokens whose logits exist at a time in the fused forms.
      pad_vocab: let the shorter vocabulary end in impossible outcomes (not for `TopK`).
      **parameters: of the divergence, such as ``beta=0.1``; may be traced.

    Returns:
      The loss, `[*b]`, `[*b, t]` or `[]`, at least float32, and metrics, weighted means
      over tokens: "distillation/loss", "distillation/tokens" (the sum of weights), and
      "distillation/divergence" (without s) and "distillation/cross_entropy", each where
      it is known by itself (the fused mixture makes only their sum). A sequence without
      weight has loss 0. A training step takes the mean, as ``Loss(None, metrics,
      mean=loss)``, or ``"sequence"`` with the sequences' token counts as weights: the
      same gradient.

    Raises:
      ValueError: shapes that do not fit, vocabularies that differ without `pad_vocab`,
        numbers out of range, unknown names, a label weight without labels.
      TypeError: a side that is none of the three forms, or arrays of a wrong type.

    Example:
      >>> from kljax.divergences import Hidden
      >>> teacher = Hidden(jnp.eye(3, 4), jnp.eye(4, 5))
      >>> student = Hidden(jnp.ones((3, 2)), jnp.zeros((2, 5)))
      >>> loss, metrics = distillation_loss(teacher, student)
      >>> round(float(loss), 4)
      0.1092
      >>> sorted(metrics)[:2]
      ['distillation/divergence', 'distillation/loss']

    References:
      Hinton, Vinyals and Dean (2015), section 2: labels, temperature and T^2. Agarwal
      et al., "On-policy distillation of language models" (2024): the divergence as a
      choice, and a sequence's loss as the mean over its tokens. Gu et al., "MiniLLM"
      (2024): reverse KL. Ko et al., "DistiLLM" (2024): skew KL, beta = 0.1.
    """
    objective = get(divergence, **parameters)
    _check_numbers(reduction, normalizer, label_weight)
    check_side("student", student, (Logits, Hidden))
    check_side("teacher", teacher, (Logits, Hidden, TopK, Restricted))
    mixed = not is_number(label_weight, 0)
    if labels is None and mixed:
        raise ValueError(f"label_weight {label_weight} needs labels, got None")
    options: dict[str, Any] = {"weights": weights, "chunk_size": chunk_size}
    reducing: dict[str, Any] = {"reduction": reduction, "normalizer": normalizer}
    if labels is not None and is_number(label_weight, 1):
        return sequence_level_loss(student, labels, **options, **reducing)
    teacher = jax.tree.map(jax.lax.stop_gradient, teacher)
    share = (1 - label_weight) * (temperature**2 if scale_by_temperature else 1)
    soft_options = options | {"temperature": temperature, "pad_vocab": pad_vocab}
    within = reducing if reduction == "mean" else {"reduction": "none"}
    fused = isinstance(student, Hidden) and not isinstance(teacher, Logits)
    parts: Metrics = {}
    if mixed and fused:
        loss = token_divergence(
            teacher, student, objective, labels=labels, label_weight=label_weight,
            divergence_weight=share, **soft_options, **within,
        )  # fmt: skip
    else:
        parts["divergence"] = token_divergence(
            teacher, student, objective, labels=labels, **soft_options, **within
        )
        loss = _times(share, parts["divergence"])
    if labels is not None and mixed and not fused:
        parts["cross_entropy"] = label_cross_entropy(
            labels, student, **options, **within
        )
        loss += _times(label_weight, parts["cross_entropy"])
    shape = jnp.shape(student[0])[:-1]
    return _out(loss, parts, _counted(labels, weights, shape), reduction)


def sequence_level_loss(
    student: Student,
    labels: Int[ArrayLike, "*b t"],
    *,
    weights: Weights | None = None,
    reduction: Reduction = "sequence",
    normalizer: ArrayLike | None = None,
    chunk_size: int | None = None,
) -> tuple[Float[Array, "*b"], Metrics]:
    """``-log q(label)`` per token: the student learns text that its teacher wrote.

    The same function on a corpus is plain training. With the divergence's own words it
    is the forward KL of sequences, ``KL(p(y) || q(y))``, up to the teacher's entropy,
    estimated by samples of p: a teacher that can only be sampled is enough.

    Args:
      student: the model q.
      labels: the teacher's tokens, the next one at each position; negative: none.
      weights, reduction, normalizer, chunk_size: as in `distillation_loss`. The log-
        probability of a whole sequence is the sum of minus ``"token"``.

    Returns:
      Loss and metrics as in `distillation_loss`.

    Raises:
      ValueError, TypeError: as in `distillation_loss`.

    Example:
      >>> from kljax.divergences import Hidden
      >>> student = Hidden(jnp.ones((1, 3, 2)), jnp.zeros((2, 4)))
      >>> loss, _ = sequence_level_loss(student, jnp.array([[0, 3, -1]]))
      >>> round(float(loss[0]), 4)  # log 4
      1.3863

    References:
      Kim and Rush, "Sequence-level knowledge distillation" (2016), section 3.2.
    """
    _check_numbers(reduction, normalizer, 1.0)
    check_side("student", student, (Logits, Hidden))
    within: dict[str, Any] = {"reduction": "none"}
    if reduction == "mean":
        within = {"reduction": reduction, "normalizer": normalizer}
    loss = label_cross_entropy(
        labels, student, weights=weights, chunk_size=chunk_size, **within
    )
    w = _counted(labels, weights, jnp.shape(student[0])[:-1])
    return _out(loss, {"cross_entropy": loss}, w, reduction)


def per_sequence(
    weighted: Float[Array, "*b t"], weights: Weights | None = None
) -> Float[Array, "*b"]:
    """``sum_t w loss / sum_t w``: from what ``reduction="token"`` gives.

    Args:
      weighted: weight times loss, `[*b, t]`.
      weights: the same weights, or None for ones.

    Returns:
      One value per sequence, 0 where the weights sum to 0.

    Raises:
      ValueError: weights that do not fit.

    Example:
      >>> per_sequence(jnp.array([[2.0, 4.0, 0.0]]), jnp.array([[1, 1, 0]])).tolist()
      [3.0]
    """
    weighted = floating("weighted", weighted)
    w = _counted(None, weights, weighted.shape)
    total = jnp.sum(w, axis=-1)
    return jnp.sum(weighted, axis=-1) / jnp.where(total == 0, 1, total)


# ------------------------------------------------------------------ what they share


def _times(factor: ArrayLike, value: Array) -> Array:
    """0 where the factor is, even of an infinite value."""
    return weigh(jnp.asarray(factor, value.dtype), value)


def _counted(labels: Any, weights: Any, shape: tuple[int, ...]) -> Array:
    """Weights in float32 or wider, 0 where a label is negative."""
    w = jnp.ones(shape) if weights is None else as_array("weights", weights)
    if w.shape != shape:
        raise ValueError(f"weights must be {shape}, one per token, got {w.shape}")
    w = w.astype(jnp.float32) if w.dtype == bool else floating("weights", w)
    return w if labels is None else jnp.where(jnp.asarray(labels) >= 0, w, 0)


def _out(
    loss: Array, parts: Metrics, weights: Array, reduction: str
) -> tuple[Array, Metrics]:
    """Losses are weighed already; sums over sequences and metrics are left to do."""
    tokens = jnp.sum(weights)
    values = {"loss": loss, **parts}
    if reduction != "mean":
        total = jnp.where(tokens == 0, 1, tokens)
        values = {name: jnp.sum(value) / total for name, value in values.items()}
    found = {f"distillation/{k}": v for k, v in {**values, "tokens": tokens}.items()}
    out = per_sequence(loss, weights) if reduction == "sequence" else loss
    return out, jax.lax.stop_gradient(found)


def _check_numbers(reduction: str, normalizer: Any, label_weight: Any) -> None:
    if reduction not in REDUCTIONS:
        raise ValueError(unknown("reduction", reduction, REDUCTIONS))
    if normalizer is not None and reduction != "mean":
        raise ValueError("normalizer needs reduction='mean': it divides a sum")
    if isinstance(label_weight, int | float) and not 0 <= label_weight <= 1:
        raise ValueError(f"label_weight must be 0 to 1, got {label_weight}")
