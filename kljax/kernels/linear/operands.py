"""What a linear loss is made from, as one pytree."""

from typing import Any, NamedTuple

__all__ = ["Among", "Lists", "Operands", "Side"]


class Side(NamedTuple):
    """Hidden states and a head: ``softcap(states @ head + bias) / temperature``."""

    states: Any
    """``[n, d]``."""
    head: Any
    """``[d, v]``."""
    bias: Any = None
    """``[v]``, ``-inf`` takes an outcome away."""
    soft_cap: Any = None
    temperature: Any = None
    """Of this side alone; `Operands.sharpness` is that of both."""


class Lists(NamedTuple):
    """A target's listed outcomes; all others are one outcome more."""

    log_p: Any
    """``[n, k]``."""
    ids: Any
    log_tail: Any = None
    """``[n]``; None: one minus the list."""


class Among(NamedTuple):
    """A target's listed outcomes; nothing else exists, on either side."""

    log_p: Any
    """``[n, k]``, normalized or not."""
    ids: Any


class Operands(NamedTuple):
    """All that a loss is computed from; what it has not is None."""

    q: Side
    p: Any = None
    """`Side`, `Lists`, `Among`, or None if there is no divergence."""
    weights: Any = None
    """``[n]``."""
    labels: Any = None
    """``[n]``, integers; None if there is no cross-entropy."""
    label_scale: Any = None
    divergence_scale: Any = None
    sharpness: Any = None
    """One over the temperature of both sides."""
    parameters: tuple = ()
    """The leaves of the divergence."""
