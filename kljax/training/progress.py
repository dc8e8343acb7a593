"""Progress: a bar with loss, rate and time left, plain lines without a terminal."""

import sys
import time
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable


@runtime_checkable
class Task(Protocol):
    """One line of progress."""

    def update(
        self, step: int, *, loss: float | None = None, rate: float | None = None
    ) -> None:
        """`step` of the total is done; `loss` in nats, `rate` in steps per second."""

    def close(self) -> None:
        """The task is over, finished or not."""


@runtime_checkable
class Progress(Protocol):
    """Where tasks come from; pass `silent()` or `rich_progress()`."""

    def task(self, description: str, total: int) -> Task:
        """A new line that runs to `total`."""
        ...


def silent() -> Progress:
    """Progress that shows nothing.

    Example:
        >>> silent().task("teacher", 100).update(1, loss=0.5)
    """
    return _Silent()


def rich_progress(interval: float = 10.0) -> Progress:
    """A live bar on a terminal (needs rich), else a line now and then on stderr.

    Args:
        interval: seconds between two lines where there is no terminal.

    Returns:
        A `Progress`; the bar appears with its first task and goes with its last.
    """
    if not sys.stderr.isatty():
        return _Lines(interval, _to_stderr)
    try:
        import rich.progress  # noqa: F401
    except ImportError:
        return _Lines(interval, _to_stderr)
    return _Bars()


class _Silent:
    def task(self, description: str, total: int) -> Task:
        return self

    def update(self, step, *, loss=None, rate=None) -> None:
        return None

    def close(self) -> None:
        return None


class _Lines:
    def __init__(self, interval: float, write: Callable[[str], None]):
        self.interval = interval
        self.write = write

    def task(self, description: str, total: int) -> Task:
        return _Line(self, description, total)


class _Line(_Silent):
    def __init__(self, lines: _Lines, description: str, total: int):
        self.lines, self.description, self.total = lines, description, total
        self.written = time.monotonic()

    def update(self, step, *, loss=None, rate=None) -> None:
        now = time.monotonic()
        if step < self.total and now - self.written < self.lines.interval:
            return
        self.written = now
        parts = [f"{self.description}: {step}/{self.total}", *_facts(loss, rate)]
        if rate:
            parts.append(f"{_clock((self.total - step) / rate)} left")
        self.lines.write(", ".join(parts))


class _Bars:
    def __init__(self):
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
        from rich.progress import Progress as Bars

        self.open = 0
        self.bars = Bars(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[facts]}"),
            TextColumn("{task.fields[left]}"),
            console=Console(stderr=True),
        )

    def task(self, description: str, total: int) -> Task:
        if not self.open:
            self.bars.start()
        self.open += 1
        return _Bar(
            self, self.bars.add_task(description, total=total, facts="", left="")
        )


class _Bar:
    def __init__(self, owner: _Bars, number: Any):
        self.owner, self.number, self.closed = owner, number, False

    def update(self, step, *, loss=None, rate=None) -> None:
        fields: dict[str, Any] = {"facts": "  ".join(_facts(loss, rate))}
        total = self.owner.bars.tasks[self.number].total
        if rate and total is not None:
            fields["left"] = f"{_clock((total - step) / rate)} left"
        self.owner.bars.update(self.number, completed=step, **fields)

    def close(self) -> None:
        if self.closed:
            return
        self.closed = True
        self.owner.open -= 1
        if not self.owner.open:
            self.owner.bars.stop()


def _facts(loss: float | None, rate: float | None) -> list[str]:
    facts = [] if loss is None else [f"loss {loss:.4g}"]
    return facts + ([] if rate is None else [f"{rate:.3g} steps/s"])


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(max(seconds, 0)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
