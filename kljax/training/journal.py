"""The metrics of the steps in flight: checked in order, logged where due, shown."""

import contextlib
import dataclasses
import time
from collections import deque
from typing import Any

import jax
import numpy as np

from kljax.errors import CheckpointError, NonFiniteLoss
from kljax.training.checkpoints import Checkpoints
from kljax.training.diagnosis import remedy
from kljax.training.progress import Task
from kljax.training.runs import RunFolder
from kljax.typing import PyTree

# Steps in flight: enough that the device never waits for Python, few enough that their
# batches fit and a NaN is found at once.
_IN_FLIGHT = 2
_SECONDS_BETWEEN_UPDATES = 0.25


@dataclasses.dataclass
class Journal:
    """What is known of the steps of one stage.

    Args:
        run: where lines go; None writes none.
        stage: its name.
        saver: of its checkpoints, to name the last good one.
        task: where progress is shown.
        start: steps that were finished before.
        steps: steps that there will be.
        log_every: steps between two lines.
        frozen: what the losses see, looked through where one is not finite.
    """

    run: RunFolder | None
    stage: str
    saver: Checkpoints | None
    task: Task
    start: int
    steps: int
    log_every: int
    frozen: PyTree

    def __post_init__(self):
        self._pending: deque[tuple[int, dict[str, Any], dict[str, Any]]] = deque()
        self._logged = (self.start, time.monotonic())
        self._first: tuple[int, float] | None = None  # step, time: after compiling
        self._shown = time.monotonic()

    def add(self, n: int, metrics: dict[str, Any], batch: dict[str, Any]) -> None:
        """Step `n` was dispatched; the oldest one in flight is looked at."""
        self._pending.append((n, metrics, batch))
        if len(self._pending) > _IN_FLIGHT:
            self._look(*self._pending.popleft())

    def settle(self) -> None:
        """Looks at all steps in flight.

        Raises:
            NonFiniteLoss: one of them was not finite.
        """
        while self._pending:
            self._look(*self._pending.popleft())

    def _look(self, n: int, metrics: dict[str, Any], batch: dict[str, Any]) -> None:
        if not np.all(metrics.get("finite", True)):
            raise NonFiniteLoss(self._diagnosis(n, jax.device_get(metrics), batch))
        now = time.monotonic()
        if self.run is not None and (n % self.log_every == 0 or n == self.steps):
            self._log(self.run, n, metrics, now)
        if self._first is None:
            self._first = (n, now)
        if n == self.steps or now - self._shown > _SECONDS_BETWEEN_UPDATES:
            self._show(n, metrics, now, *self._first)

    def _log(self, run: RunFolder, n: int, metrics: dict[str, Any], now: float) -> None:
        host = jax.device_get(metrics)
        host.pop("finite", None)
        place = {"stage": self.stage, "step": n}
        run.log({**place, **host})
        logged, since = self._logged
        rate = (n - logged) / max(now - since, 1e-9)
        run.time({**place, "time": time.time(), "steps_per_second": rate})
        self._logged = (n, now)

    def _show(
        self, n: int, metrics: dict[str, Any], now: float, first: int, since: float
    ) -> None:
        losses = [value for name, value in metrics.items() if name.endswith("/loss")]
        loss = float(np.mean(losses[-1])) if losses else None
        # The first look only starts the clock: compiling is no part of the rate.
        rate = (n - first) / max(now - since, 1e-9) if n > first else None
        self.task.update(n, loss=loss, rate=rate)
        self._shown = now

    def _diagnosis(self, n: int, metrics: dict[str, Any], batch: dict[str, Any]) -> str:
        bad = [name for name, value in metrics.items() if not np.isfinite(value).all()]
        bad.sort(key=lambda name: not name.endswith("/loss"))
        ends = ("/loss", "/grad_norm")
        roles = sorted({name.rsplit("/", 1)[0] for name in bad if name.endswith(ends)})
        values = ", ".join(f"{name} = {metrics[name]}" for name in bad)
        values = values or "the update or the model state"
        saved = None
        if self.saver is not None:
            with contextlib.suppress(CheckpointError):
                self.saver.wait()
            saved = self.saver.last
        return (
            f"stage {self.stage!r}, step {n}, role {' and '.join(roles) or 'unknown'}: "
            f"not finite ({values}); last good checkpoint: "
            f"{saved or 'none'}. {remedy(n, metrics, batch, self.frozen)}"
        )
