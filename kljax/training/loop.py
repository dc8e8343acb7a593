"""The loop: dispatch a step, look at the one before, log, save, resume."""

import contextlib
import itertools
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from kljax.arguments import described, whole
from kljax.errors import CheckpointError, NonFiniteLoss
from kljax.training.arguments import (
    check_batch,
    check_calls,
    check_state,
)
from kljax.training.checkpoints import Checkpoints
from kljax.training.diagnosis import remedy
from kljax.training.interruption import Interrupted, StopRequest, in_words
from kljax.training.progress import Progress, Task, silent
from kljax.training.runs import RunFolder
from kljax.training.state import TrainState
from kljax.training.step import Step, jit_step
from kljax.typing import PyTree

# Steps in flight: enough that the device never waits for Python, few enough that their
# batches fit and a NaN is found at once.
_IN_FLIGHT = 2
_SECONDS_BETWEEN_UPDATES = 0.25


def fit(
    step: Step,
    state: TrainState,
    batches: Callable[[int], dict[str, Any]],
    *,
    steps: int,
    frozen: PyTree = None,
    run: RunFolder | None = None,
    stage: str = "train",
    checkpoint_every: int = 500,
    log_every: int = 50,
    progress: Progress | None = None,
    evaluate: Callable[[TrainState], Mapping[str, Any]] | None = None,
    evaluate_every: int = 500,
) -> TrainState:
    """Trains until `state.step == steps`, from the last checkpoint if there is one.

    Killed at any moment and called again with the same arguments, it ends with the
    same bits, in the state and in metrics.jsonl, provided that `batches` and `evaluate`
    are functions of their argument alone (and, on a GPU, that XLA_FLAGS has
    --xla_gpu_deterministic_ops=true). A finished stage is read back, not redone.

    Args:
        step: from `make_step`, compiled with donation here unless it already is; a
            `jax.vmap` of it over stacked states works too. It consumes `state`.
        state: from `init_state`; also says which checkpoint fits.
        batches: `batches(n)` is the batch of the step that follows n finished steps.
        steps: total number of steps, those before the resume included.
        frozen: pytree that the losses see and nobody trains.
        run: folder for metrics and checkpoints; None keeps nothing.
        stage: name of this part of the run.
        checkpoint_every: steps between checkpoints; the last step has one in any case.
        log_every: steps between lines in metrics.jsonl; the last step has one too.
        progress: from `rich_progress()` or `silent()` (None).
        evaluate: called on the state every `evaluate_every` steps and after the last;
            what it returns is a line of its own in metrics.jsonl.

    Returns:
        The state after `steps` steps.

    Raises:
        TypeError: an argument is not what is listed above; the message says what is.
        ValueError: a count below 1, a closed `run`, a state that was consumed before.
        NonFiniteLoss: a loss, gradient, update or model state became NaN or infinite;
            names stage, step, role, and what in the batch or in `frozen` is not finite.
        CheckpointError: checkpoints are there but none can be used.
        Interrupted: SIGTERM or Ctrl-C came; all that was trained is saved (with `run`).

    Example:
        >>> from kljax.training import Loss, Player, init_state, make_step
        >>> import jax, jax.numpy as jnp, optax
        >>> players = [Player("m", lambda w, **_: Loss(w**2), optax.sgd(0.1))]
        >>> state = init_state(jax.random.key(0), {"m": jnp.ones(1)}, players)
        >>> state = fit(make_step(players), state, lambda n: {}, steps=3)
    """
    counts = {
        "steps": steps,
        "checkpoint_every": checkpoint_every,
        "log_every": log_every,
        "evaluate_every": evaluate_every,
    }
    steps, checkpoint_every, log_every, evaluate_every = itertools.starmap(
        whole, counts.items()
    )
    check_calls(step, batches, evaluate, progress)
    check_state(state, TrainState, frozen, donated=not hasattr(step, "lower"))
    if run is not None and not isinstance(run, RunFolder):
        raise TypeError(
            f"run must be a RunFolder or None, got {described(run)}: write "
            "with RunFolder(path, config) as run"
        )
    if run is not None and not run.is_open:
        raise ValueError(f"run is closed: call fit inside `with`, {run.path}")
    compiled = step if hasattr(step, "lower") else jit_step(step)
    with contextlib.ExitStack() as stack:
        saver, stop = None, StopRequest()
        if run is not None:
            # Entered first and left last: a signal waits until the last write is done.
            stack.enter_context(stop)
            saver = stack.enter_context(
                Checkpoints(run.checkpoints(stage), owner=run.config_hash)
            )
            state = saver.restore(state)
        n = int(np.max(state.step))
        if n > steps:
            remedy = f"raise steps or delete {saver.folder}" if saver else "raise steps"
            raise CheckpointError(
                f"stage {stage!r} already has {n} steps, more than steps={steps}; "
                f"{remedy}"
            )
        if run is not None:
            run.rewind(stage, n)
        task = stack.enter_context(
            contextlib.closing((progress or silent()).task(stage, steps))
        )
        journal = _Journal(run, stage, saver, task, n, steps, log_every, frozen)
        if saver is not None:
            _stop_if_asked(stop.agreed(True), stage, n, steps, saver)
        while n < steps:
            batch = check_batch(batches(n), f"batches({n})")
            state, metrics = _checked(compiled(state, batch, frozen))
            n += 1
            journal.add(n, metrics, batch)
            last = n == steps
            if evaluate is not None and (last or n % evaluate_every == 0):
                journal.settle()
                record = {"stage": stage, "step": n, **_found(evaluate(state))}
                if run is not None:
                    run.log(record)
            if run is None or saver is None:
                continue
            signal_number = stop.agreed(last or n % log_every == 0)
            if last or signal_number or n % checkpoint_every == 0:
                journal.settle()
                run.sync()
                saver.save(n, state)
            if last:  # what comes while the last one is written is heard, too
                saver.wait()
                signal_number = signal_number or stop.agreed(True)
            _stop_if_asked(signal_number, stage, n, steps, saver)
        journal.settle()
    return state


def _stop_if_asked(
    signal_number: int, stage: str, n: int, steps: int, saver: Checkpoints
) -> None:
    if not signal_number:
        return
    saver.wait()
    saved = f"saved in {saver.last}: the" if saver.last else "nothing to save yet: the"
    raise Interrupted(
        f"stage {stage!r} was stopped by {in_words(signal_number)} after step {n} of "
        f"{steps}; {saved} same command goes on from there",
        signal_number=signal_number,
        step=n,
    )


def _checked(answer: Any) -> tuple[TrainState, dict[str, Any]]:
    match answer:
        case (TrainState() as state, dict() as metrics):
            return state, metrics
    raise TypeError(
        f"step must return (state, metrics), got {described(answer)}; make_step makes "
        "such a function"
    )


def _found(record: Any) -> Mapping[str, Any]:
    if not isinstance(record, Mapping):
        raise TypeError(
            f"evaluate must return a dict of named numbers, got {described(record)}"
        )
    return record


class _Journal:
    """The metrics of the steps in flight: checked in order, logged where due."""

    def __init__(
        self,
        run: RunFolder | None,
        stage: str,
        saver: Checkpoints | None,
        task: Task,
        start: int,
        steps: int,
        log_every: int,
        frozen: PyTree,
    ):
        self.frozen = frozen
        self.run, self.stage, self.saver, self.task = run, stage, saver, task
        self.steps, self.log_every = steps, log_every
        self.pending: deque[tuple[int, dict[str, Any], dict[str, Any]]] = deque()
        self.logged = (start, time.monotonic())
        self.first: tuple[int, float] | None = None  # step, time: after compiling
        self.shown = time.monotonic()

    def add(self, n: int, metrics: dict[str, Any], batch: dict[str, Any]) -> None:
        self.pending.append((n, metrics, batch))
        if len(self.pending) > _IN_FLIGHT:
            self._look(*self.pending.popleft())

    def settle(self) -> None:
        while self.pending:
            self._look(*self.pending.popleft())

    def _look(self, n: int, metrics: dict[str, Any], batch: dict[str, Any]) -> None:
        if not np.all(metrics.get("finite", True)):
            raise NonFiniteLoss(self._diagnosis(n, jax.device_get(metrics), batch))
        now = time.monotonic()
        if self.run is not None and (n % self.log_every == 0 or n == self.steps):
            host = jax.device_get(metrics)
            host.pop("finite", None)
            self.run.log({"stage": self.stage, "step": n, **host})
            rate = (n - self.logged[0]) / max(now - self.logged[1], 1e-9)
            self.run.time(
                {
                    "stage": self.stage,
                    "step": n,
                    "time": time.time(),
                    "steps_per_second": rate,
                }
            )
            self.logged = (n, now)
        first, since = self.first = self.first or (n, now)
        if n == self.steps or now - self.shown > _SECONDS_BETWEEN_UPDATES:
            losses = [
                value for name, value in metrics.items() if name.endswith("/loss")
            ]
            loss = float(np.mean(losses[-1])) if losses else None
            # The first look only starts the clock: compiling is no part of the rate.
            rate = (n - first) / max(now - since, 1e-9) if n > first else None
            self.task.update(n, loss=loss, rate=rate)
            self.shown = now

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
