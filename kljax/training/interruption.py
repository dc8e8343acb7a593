"""SIGTERM and Ctrl-C turned into a flag that the loop reads between steps."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

_WORDS = {
    signal.SIGINT: "Ctrl-C (SIGINT)",
    signal.SIGTERM: "a request to end (SIGTERM)",
}


def in_words(number: int) -> str:
    """A signal as a user knows it.

    Example:
        >>> in_words(2), in_words(10)
        ('Ctrl-C (SIGINT)', 'SIGUSR1')
    """
    known = signal.Signals(number)
    return _WORDS.get(known, known.name)


class Interrupted(KeyboardInterrupt):
    """The run was asked to stop, saved what was trained and can be resumed.

    `except Exception` lets it through, as it should. `signal_number` says who asked
    (`signal.SIGTERM` or `signal.SIGINT`), `step` is the last finished step.
    """

    def __init__(self, message: str, *, signal_number: int, step: int):
        super().__init__(message)
        self.signal_number = signal_number
        self.step = step


@contextlib.contextmanager
def like_ctrl_c() -> Iterator[None]:
    """SIGTERM, a scheduler's, raises `KeyboardInterrupt` as Ctrl-C does.

    For what surrounds training, which has its own handler (`StopRequest`). Nothing
    changes outside the main thread.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handler(number: int, frame: Any) -> None:
        raise KeyboardInterrupt(f"stopped by {in_words(number)}")

    previous = signal.signal(signal.SIGTERM, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


class StopRequest:
    """Context in which the first SIGTERM or SIGINT is kept, the second acts at once.

    A signal that nobody asked for in time is delivered at the end. Outside the main
    thread Python lets nobody handle signals, so none is kept there.
    """

    def __init__(self):
        self.signal_number = 0
        self._told = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._keep)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            # None: a handler that is not Python's, which nobody can put back.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        if self.signal_number and not self._told and exception[0] is None:
            signal.raise_signal(self.signal_number)

    def _keep(self, number: int, frame: Any) -> None:
        if self.signal_number:
            raise KeyboardInterrupt(
                f"stopped at once by {in_words(number)}, the second request, without "
                "a checkpoint: what was trained after the last one is lost"
            )
        self.signal_number = number

    def agreed(self, now: bool) -> int:
        """The signal on which all processes agree, 0 for none.

        Args:
            now: whether several processes ask each other at this step; they must all
                do so at the same steps.
        """
        agreed = self.signal_number
        if jax.process_count() > 1:
            if not now:
                return 0
            from jax.experimental import multihost_utils

            mine = np.asarray(agreed, np.int32)
            agreed = int(np.max(multihost_utils.process_allgather(mine)))
        self._told |= agreed > 0
        return agreed
