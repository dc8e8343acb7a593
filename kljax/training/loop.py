"""The loop: dispatch a step, look at the one before, log, save, resume."""

import contextlib
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from kljax.arguments import described, text, unlike, whole
from kljax.errors import CheckpointError
from kljax.training.arguments import check_batch, check_calls, check_state
from kljax.training.checkpoints import Checkpoints
from kljax.training.interruption import Interrupted, StopRequest, in_words
from kljax.training.journal import Journal
from kljax.training.progress import Progress, silent
from kljax.training.runs import RunFolder
from kljax.training.state import TrainState
from kljax.training.step import Step, jit_step
from kljax.typing import PyTree


@dataclasses.dataclass(frozen=True)
class Every:
    """Steps between two things of the same kind; each also comes with the last step.

    Args:
        checkpoint: between checkpoints.
        log: between lines in metrics.jsonl.
        evaluate: between calls of `evaluate`.

    Raises:
        TypeError: no int.
        ValueError: below 1.

    Example:
        >>> Every(log=10)
        Every(checkpoint=500, log=10, evaluate=500)
    """

    checkpoint: int = 500
    log: int = 50
    evaluate: int = 500

    def __post_init__(self):
        for field in dataclasses.fields(self):
            whole(f"every.{field.name}", getattr(self, field.name))


def fit(
    step: Step,
    state: TrainState,
    batches: Callable[[int], dict[str, Any]],
    *,
    steps: int,
    frozen: PyTree = None,
    run: RunFolder | None = None,
    stage: str = "train",
    every: Every | None = None,
    progress: Progress | None = None,
    evaluate: Callable[[TrainState], Mapping[str, Any]] | None = None,
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
        every: steps between checkpoints, lines and evaluations; None: `Every()`.
        progress: from `rich_progress()` or `silent()` (None).
        evaluate: called on the state now and then and after the last step; what it
            returns is a line of its own in metrics.jsonl.

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
    steps, every = whole("steps", steps), _intervals(every)
    text("stage", stage)
    check_calls(step, batches, evaluate, progress)
    check_state(state, TrainState, frozen, donated=not hasattr(step, "lower"))
    _check_run(run)
    compiled = step if hasattr(step, "lower") else jit_step(step)
    with contextlib.ExitStack() as stack:
        keeper = None
        if run is not None:
            keeper = stack.enter_context(_Keeper(run, stage, steps, every))
            state = keeper.restored(state)
        n = _begun(state, stage, steps, keeper)
        task = stack.enter_context(
            contextlib.closing((progress or silent()).task(stage, steps))
        )
        saver = None if keeper is None else keeper.saver
        journal = Journal(run, stage, saver, task, n, steps, every.log, frozen)
        if keeper is not None:
            keeper.begin(n)
        while n < steps:
            batch = check_batch(batches(n), f"batches({n})")
            state, metrics = _checked(compiled(state, batch, frozen))
            n += 1
            journal.add(n, metrics, batch)
            if evaluate is not None and (n == steps or n % every.evaluate == 0):
                journal.settle()
                record = {"stage": stage, "step": n, **_found(evaluate(state))}
                if run is not None:
                    run.log(record)
            if keeper is not None:
                keeper.keep(n, state, journal)
        journal.settle()
    return state


class _Keeper(contextlib.ExitStack):
    """What a run with a folder has beside its steps: checkpoints, requests to stop."""

    def __init__(self, run: RunFolder, stage: str, steps: int, every: Every):
        super().__init__()
        self.run, self.stage, self.steps, self.every = run, stage, steps, every
        self.stop = StopRequest()
        self.saver = Checkpoints(run.checkpoints(stage), owner=run.config_hash)

    def __enter__(self):
        super().__enter__()
        # Entered first and left last: a signal waits until the last write is done.
        self.enter_context(self.stop)
        self.enter_context(self.saver)
        return self

    def restored(self, state: TrainState) -> TrainState:
        return self.saver.restore(state)

    def begin(self, n: int) -> None:
        self.run.rewind(self.stage, n)
        self._stop_if_asked(self.stop.agreed(True), n)

    def keep(self, n: int, state: TrainState, journal: Journal) -> None:
        """After step `n`: a checkpoint where one is due, an end where one was asked."""
        last = n == self.steps
        signal_number = self.stop.agreed(last or n % self.every.log == 0)
        if last or signal_number or n % self.every.checkpoint == 0:
            journal.settle()
            self.run.sync()
            self.saver.save(n, state)
        if last:  # what comes while the last one is written is heard, too
            self.saver.wait()
            signal_number = signal_number or self.stop.agreed(True)
        self._stop_if_asked(signal_number, n)

    def _stop_if_asked(self, signal_number: int, n: int) -> None:
        if not signal_number:
            return
        self.saver.wait()
        last = self.saver.last
        saved = f"saved in {last}: the" if last else "nothing to save yet: the"
        raise Interrupted(
            f"stage {self.stage!r} was stopped by {in_words(signal_number)} after step "
            f"{n} of {self.steps}; {saved} same command goes on from there",
            signal_number=signal_number,
            step=n,
        )


def _intervals(every: Every | None) -> Every:
    if every is None:
        return Every()
    if not isinstance(every, Every):
        raise unlike("every", every, "an Every or None", ": write every=Every(log=10)")
    return every


def _check_run(run: Any) -> None:
    if run is None:
        return
    if not isinstance(run, RunFolder):
        raise unlike(
            "run",
            run,
            "a RunFolder or None",
            ": write with RunFolder(path, config) as run",
        )
    if not run.is_open:
        raise ValueError(f"run is closed: call fit inside `with`, {run.path}")


def _begun(state: TrainState, stage: str, steps: int, keeper: _Keeper | None) -> int:
    """How many steps are finished."""
    n = int(np.max(state.step))
    if n > steps:
        remedy = "raise steps"
        remedy += f" or delete {keeper.saver.folder}" if keeper else ""
        raise CheckpointError(
            f"stage {stage!r} already has {n} steps, more than steps={steps}; {remedy}"
        )
    return n


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
