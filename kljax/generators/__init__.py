# ruff: noqa: F403, F405
"""The f-divergences, one small object each, and the one table of their names.

What they are made of stands in `kljax.generators.base`. A new divergence is a subclass
of `FDivergence` with `mass_term`, decorated by `generator`, in the file of its family,
and a row of the table below; `kljax.divergences` and the tests find it there.
"""

import dataclasses
from types import MappingProxyType
from typing import Any

from kljax.errors import unknown
from kljax.generators.base import FDivergence, Outcomes, generator
from kljax.generators.bounded import *
from kljax.generators.choice import Choice
from kljax.generators.kl import *
from kljax.generators.mixtures import *
from kljax.generators.powers import *
from kljax.generators.textbook import from_generator

_TABLE = MappingProxyType(
    {
        "forward_kl": ForwardKL,
        "reverse_kl": ReverseKL,
        "jeffreys": Jeffreys,
        "jensen_shannon": JensenShannon,
        "skew_forward_kl": SkewForwardKL,
        "skew_reverse_kl": SkewReverseKL,
        "alpha": Alpha,
        "squared_hellinger": SquaredHellinger,
        "total_variation": TotalVariation,
        "pearson_chi2": PearsonChi2,
        "neyman_chi2": NeymanChi2,
        "le_cam": LeCam,
        "softened_reverse_kl": SoftenedReverseKL,
    }
)

__all__ = [
    "Choice",
    "FDivergence",
    "Outcomes",
    "from_generator",
    "generator",
    "get",
    "names",
    *(cls.__name__ for cls in _TABLE.values()),
]

_ALIASES = MappingProxyType(
    {
        "kl": "forward_kl",
        "js": "jensen_shannon",
        "jsd": "jensen_shannon",
        "tv": "total_variation",
        "chi2": "pearson_chi2",
    }
)
"""Other names, for the same scales. Hellinger's distance itself is a square root, and
half or twice ours elsewhere: it has none."""


def names() -> tuple[str, ...]:
    """The names of the built-in divergences, without their short forms."""
    return tuple(_TABLE)


def get(divergence: str | FDivergence, **parameters: Any) -> FDivergence:
    """The divergence called by that name; an object is returned as it is.

    A parameter that is traced and out of its range becomes NaN.

    Args:
      divergence: a name of `names()`, a short form (``kl``, ``js``, ``tv``, ``chi2``,
        ...), or an object.
      **parameters: of the divergence, such as ``alpha=0.3``; with a name only.

    Raises:
      ValueError: the name is unknown, or a parameter is out of range.
      TypeError: not a name and not a divergence, or a parameter that it has not.

    Example:
      >>> get("alpha", alpha=0.3)
      Alpha(alpha=0.3)
    """
    if isinstance(divergence, FDivergence):
        if parameters:
            raise TypeError(f"{divergence} is complete: got {sorted(parameters)} too")
        return divergence.in_range()
    if not isinstance(divergence, str):
        raise TypeError(
            "divergence must be a name or an FDivergence object, got "
            f"{type(divergence).__name__}"
        )
    canonical = _ALIASES.get(divergence, divergence)
    if canonical not in _TABLE:
        raise ValueError(unknown("divergence", divergence, (*_TABLE, *_ALIASES)))
    cls = _TABLE[canonical]
    known = [f.name for f in dataclasses.fields(cls)]
    foreign = sorted(set(parameters) - set(known))
    if foreign:
        raise TypeError(f"{divergence} has no parameter {foreign}; it has {known}")
    return cls(**parameters).in_range()
