"""How alike texts are: METEOR on exact matches, and its mean over answers to different
prompts, which grows when a policy has found one answer that pays everywhere.

References: Banerjee and Lavie 2005, "METEOR"; Mukobi et al. 2023, "SuperHF", arXiv
2310.16763, for the similarity as a measure of reward hacking.
"""

from collections.abc import Hashable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from kljax.arguments import expect, unlike, whole
from kljax.typing import Array, ArrayLike, Bool, Float, Int

__all__ = ["cross_prompt_similarity", "meteor", "token_similarity"]

Text = str | Sequence[Hashable]


def meteor(
    candidate: Text,
    reference: Text,
    *,
    alpha: float = 0.9,
    beta: float = 3.0,
    gamma: float = 0.5,
) -> float:
    """``F (1 − γ (chunks/m)^β)``, ``F = PR/(αP + (1−α)R)``, of m equal tokens.

    ``P = m/|candidate|``, ``R = m/|reference|``; a chunk is a run of matches that is
    one in both. Tokens are matched from the end, each with the last equal one that is
    left, as NLTK does. No stems, no synonyms, no change of case.

    Args:
      candidate, reference: text, split at white space, or tokens of any kind.
      alpha: weight of precision's share, in [0, 1]: near 1 recall counts.
      beta: exponent of the fragmentation.
      gamma: most that it takes away, in [0, 1].

    Returns:
      In [0, 1]; 0 without a match, and for empty texts.

    Raises:
      TypeError: texts that are none.

    Example:
      >>> meteor("on the mat sat the cat", "the cat sat on the mat")
      0.5
    """
    expect("alpha", alpha, 0 <= alpha <= 1, "expected 0 to 1")
    expect("gamma", gamma, 0 <= gamma <= 1, "expected 0 to 1")
    ids, lengths = _padded([candidate, reference])
    found = _meteor(ids[:1], lengths[:1], ids[1:], lengths[1:], alpha, beta, gamma)
    return float(found[0])


def cross_prompt_similarity(
    texts: Sequence[Text], *, pairs: int | None = None, seed: int = 0
) -> float:
    """The mean METEOR over ordered pairs of answers to different prompts.

    Symmetric: both orders of a pair count.

    Args:
      texts: one answer for each prompt; two at least.
      pairs: how many of the ``n (n − 1)/2`` unordered pairs are drawn; None: all.
      seed: of that draw.

    Returns:
      In [0, 1].

    Raises:
      ValueError: fewer than two texts. TypeError: texts that are none.

    Example:
      >>> round(cross_prompt_similarity(["a b", "a b", "c d"]), 4)
      0.3125
    """
    expect("the number of texts", len(texts), len(texts) > 1, "expected two at least")
    ids, lengths = _padded(texts)
    one, other = np.triu_indices(len(texts), 1)
    if pairs is not None and whole("pairs", pairs) < len(one):
        chosen = np.random.default_rng(seed).choice(len(one), pairs, replace=False)
        one, other = one[chosen], other[chosen]
    a, b = np.append(one, other), np.append(other, one)
    scores = _meteor(ids[a], lengths[a], ids[b], lengths[b], 0.9, 3.0, 0.5)
    return float(scores.mean())


def _padded(texts: Sequence[Text]) -> tuple[np.ndarray, np.ndarray]:
    """Ids `[n, t]` of tokens, and how many are there."""
    lists, known = [], {}
    for number, text in enumerate(texts):
        if not isinstance(text, str | Sequence | np.ndarray):
            raise unlike(f"text {number}", text, "text, or a sequence of tokens")
        tokens = text.split() if isinstance(text, str) else list(text)
        lists.append([known.setdefault(token, len(known)) for token in tokens])
    lengths = np.array([len(one) for one in lists])
    ids = np.zeros((len(lists), max(1, lengths.max())), np.int64)
    for row, one in zip(ids, lists):
        row[: len(one)] = one
    return ids, lengths


def token_similarity(
    tokens: Int[ArrayLike, "*b n t"], where: Bool[ArrayLike, "*b n t"] | None = None
) -> Float[Array, "*b"]:
    """`cross_prompt_similarity` of arrays, for a training loop: it can be jitted.

    Args:
      tokens: one answer for each of n >= 2 prompts.
      where: which tokens count, from the first of an answer on; None: all.

    Returns:
      The mean over all ordered pairs, in [0, 1].

    Raises:
      ValueError: shapes, or fewer than two prompts.

    Example:
      >>> round(float(token_similarity([[1, 2], [1, 2], [3, 4]])), 4)
      0.3125
    """
    ids = jnp.asarray(tokens)
    kept = jnp.ones(ids.shape, bool) if where is None else jnp.asarray(where, bool)
    if kept.shape != ids.shape or ids.ndim < 2 or ids.shape[-2] < 2:
        raise ValueError(
            f"tokens {ids.shape} and where {kept.shape}: expected the same [*b, n, t] "
            "with n >= 2 prompts"
        )
    n, lengths = ids.shape[-2], kept.sum(axis=-1)
    one, other = np.nonzero(~np.eye(n, dtype=bool))
    scores = _meteor(
        ids[..., one, :], lengths[..., one], ids[..., other, :], lengths[..., other],
        0.9, 3.0, 0.5, jnp,
    )  # fmt: skip
    return scores.mean(axis=-1)


def _meteor(
    candidate: Any,
    its_length: Any,
    reference: Any,
    other_length: Any,
    alpha: float,
    beta: float,
    gamma: float,
    xp: Any = np,
) -> Any:
    """Of pairs of padded rows `[*b, t]`, in NumPy's or JAX's functions."""
    most, width = candidate.shape[-1], reference.shape[-1]
    places = xp.arange(width)
    free = places < other_length[..., None]
    partners = []
    for i in reversed(range(most)):
        equal = free & (reference == candidate[..., i : i + 1])
        equal &= (i < its_length)[..., None]
        last = width - 1 - xp.argmax(xp.flip(equal, axis=-1), axis=-1)
        partners.append(xp.where(equal.any(axis=-1), last, -1))
        free = free & (places != partners[-1][..., None])
    partner = xp.stack(partners[::-1], axis=-1)
    matched = partner >= 0
    goes_on = matched[..., 1:] & matched[..., :-1] & (xp.diff(partner, axis=-1) == 1)
    matches = matched.sum(axis=-1)
    count = xp.maximum(matches, 1)
    chunks = matches - goes_on.sum(axis=-1)
    precision = count / xp.maximum(its_length, 1)
    recall = count / xp.maximum(other_length, 1)
    mean = precision * recall / (alpha * precision + (1 - alpha) * recall)
    score = mean * (1 - gamma * (chunks / count) ** beta)
    return xp.where(matches > 0, score, 0.0)
