"""How a text is continued: one setting for `generate`, `stream` and `speculate`."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from kljax.arguments import whole
from kljax.decoding.decoders import Combine
from kljax.decoding.sampling import Sampling

__all__ = ["Decoding"]


@dataclasses.dataclass(frozen=True)
class Decoding:
    """How much text is made, from which law, and where it ends.

    Raises:
      TypeError: a sampling that is none, or numbers of tokens that are no integers.
      ValueError: no token to make.

    Example:
      >>> Decoding(8, stop_tokens=[2]).stop_tokens
      (2,)
    """

    max_new_tokens: int
    """How many tokens to make at most, ≥ 1; with what is read before they must fit the
    models' contexts."""
    sampling: Sampling = dataclasses.field(default=Sampling())
    """Temperature, filters and penalty."""
    stop_tokens: Sequence[int] = ()
    """A row ends with any of these, which is part of it."""
    pad_id: int = 0
    """What a row is filled with after its end."""
    combine: Combine | None = None
    """Turns the tuple of all models' logits, each `[b, v]` (in `speculate` one more
    axis, `[b, t, v]`), into one and a dict of diagnostics `[b, ...]`; hashable, for
    instance `kljax.decoding.Fusion()`. None: the only model's."""
    cache_dtype: Any = None
    """Of keys and values; None: that of each model's head."""

    def __post_init__(self) -> None:
        """Checks what does not depend on the models."""
        whole("max_new_tokens", self.max_new_tokens)
        if not isinstance(self.sampling, Sampling):
            raise TypeError(
                f"sampling is a {type(self.sampling).__name__}; expected a "
                "kljax.decoding.Sampling"
            )
        object.__setattr__(self, "stop_tokens", tuple(self.stop_tokens))
