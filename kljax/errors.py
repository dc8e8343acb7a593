"""The exceptions that name a file, a step and a remedy.

Bad arguments raise `ValueError` or `TypeError` at trace time; these three are for
what goes wrong while a program runs.
"""


class CheckpointError(RuntimeError):
    """A checkpoint is missing, truncated or belongs to another run."""


class NonFiniteLoss(FloatingPointError):
    """A loss became NaN or infinite; names the step, the role and a way back."""


class DataError(RuntimeError):
    """Data cannot be found, read or trusted; names the file and the remedy."""
