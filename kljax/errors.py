"""The exceptions that name a file, a step and a remedy.

Bad arguments raise `ValueError` or `TypeError` at trace time; these three are for
what goes wrong while a program runs.
"""

import difflib
from collections.abc import Iterable

__all__ = ["CheckpointError", "DataError", "NonFiniteLoss", "unknown"]


class CheckpointError(RuntimeError):
    """A checkpoint is missing, truncated or belongs to another run."""


class NonFiniteLoss(FloatingPointError):
    """A loss became NaN or infinite; names the step, the role and a way back."""


class DataError(RuntimeError):
    """Data cannot be found, read or trusted; names the file and the remedy."""


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """The message about a name that no table holds, with the nearest one that it does.

    Args:
      kind: what is named, such as "divergence".
      name: as it was given.
      known: the names of the table, in its order.

    Example:
      >>> unknown("data set", "Digit", ["digits", "mnist5k"])
      "unknown data set 'Digit'; did you mean 'digits'? known: digits, mnist5k"
    """
    names = [*known]
    spelled = {_spelling(one): one for one in names}
    # `steps` is near to `teacher.steps`: the last part counts as well.
    spelled = {form.rpartition(".")[2]: one for form, one in spelled.items()} | spelled
    near = difflib.get_close_matches(_spelling(name), spelled, n=1, cutoff=0.5)
    hint = f" did you mean {spelled[near[0]]!r}?" if near else ""
    return f"unknown {kind} {name!r};{hint} known: {', '.join(names)}"


def _spelling(name: str) -> str:
    return f"{name}".lower().replace("-", "_")
