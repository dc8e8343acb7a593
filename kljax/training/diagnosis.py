"""Why a loss is not finite, and what helps, in the words of the data if it is they."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kljax.typing import PyTree

_RATE = "Lower the learning rate, clip the gradient, or compute in float32"


def remedy(n: int, metrics: dict[str, Any], batch: dict[str, Any], frozen: PyTree):
    """The likeliest cause after step `n`, as a sentence.

    Args:
        n: the step, from 1.
        metrics: what it gave, on the host.
        batch: what it was given; rows of weight 0 do not count.
        frozen: what nobody trains.

    Returns:
        Fields that hold NaN or infinities; without such, what the step's number and
        the loss say.
    """
    weights = _host(batch.get("weights", 1))
    counts = None if weights is None or np.ndim(weights) != 1 else weights != 0
    if found := [*_faults(batch, "batch", counts), *_faults(frozen, "frozen", None)]:
        idle = ", or give such examples weight 0" if "batch" in found[0] else ""
        return f"{'; '.join(found)}: mend that{idle}; no learning rate helps"
    doubts = _doubts(batch, counts)
    losses, slopes = (
        all(np.isfinite(v).all() for k, v in metrics.items() if k.endswith(end))
        for end in ("/loss", "/grad_norm")
    )
    if n == 1 and not losses:
        return (
            f"{doubts}No update was made before: look at the first parameters and at "
            "divisions, roots and logarithms of 0 in the loss"
        )
    if losses and not slopes:
        cause = "The loss itself is finite: look for a root, a norm or a logarithm at 0"
        return f"{doubts}{cause}. Else: {_RATE[0].lower()}{_RATE[1:]}"
    return f"{doubts}{_RATE}"


def _faults(tree: PyTree, name: str, counts: Any) -> list[str]:
    """The leaves that hold NaN or infinity, in words."""
    found = []
    for place, value in _fields(tree, name, counts):
        for kind, bad in {"NaN": np.isnan(value), "inf": np.isposinf(value)}.items():
            if bad.any():
                found.append(f"{place} holds {kind}{_share(bad, name)}")
    return found


def _share(bad: np.ndarray, name: str) -> str:
    if name != "batch" or not bad.ndim:
        return ""
    return f" in {bad.reshape(len(bad), -1).any(1).sum()} of {len(bad)} examples"


def _doubts(batch: dict[str, Any], counts: Any) -> str:
    """Fields that are legal and yet strange, as a sentence or nothing."""
    found = []
    for place, value in _fields(batch, "batch", counts):
        if place == "batch['weights']" or value.size < 2:
            continue
        if (value == value.flat[0]).all():
            found.append(f"{place} is {value.flat[0]:.6g} everywhere")
        elif np.isneginf(value).any():
            found.append(f"{place} holds -inf, which only a logit may")
    return f"{' and '.join(found)}: is that meant? " if found else ""


def _fields(tree: PyTree, name: str, counts: Any) -> list[tuple[str, np.ndarray]]:
    """Floating-point leaves by name, without the rows that do not count."""
    found = []
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        if (value := _host(leaf)) is None:
            continue
        rows = value.ndim and counts is not None and len(counts) == len(value)
        place = f"{name}{jax.tree_util.keystr(path)}"
        found.append((place, value[counts] if rows else value))
    return found


def _host(leaf: Any) -> np.ndarray | None:
    """Floating-point numbers as float32 or wider; None for the rest.

    Also None for what is spread over other processes, which no one can read alone.
    """
    if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
        return None
    if not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
        return None
    value = np.asarray(leaf)
    return value.astype(np.promote_types(value.dtype, np.float32))
