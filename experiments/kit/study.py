"""One run of a paper: stages that are stored and read back, training, sweeps.

A stage has a label and is worked out once; what it returned is stored with the code
that made it and read back by the same command again. Its seconds are its own: those of
stages that it had to wait for are theirs.
"""

import contextlib
import dataclasses
import itertools
import pathlib
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import jax
import numpy as np
import optax

import kljax
from experiments import harness
from experiments.harness import Results, bookkeeping
from experiments.kit.claims import digest, verdicts
from experiments.kit.display import Display
from experiments.kit.stages import Label, Stages, slug
from kljax.errors import CheckpointError
from kljax.training import (
    Every,
    Loss,
    Player,
    Progress,
    RunFolder,
    Step,
    TrainState,
    fit,
    init_state,
    jit_step,
    make_step,
    stacked,
    taken,
)
from kljax.training.sweep import Batches, Sweep
from kljax.typing import PyTree

Name = TypeVar("Name", bound=Label)


@dataclasses.dataclass(frozen=True)
class Settings:
    """What every paper's `Config` has.

    A `__post_init__` of a `Config` calls `super().__post_init__()` first.
    """

    seed: int = 0
    seeds: int = 1
    """Repetitions; run s has the seeds 100 s, 100 s + 1, ..."""
    decide: bool = True
    """Whether the run is long enough for verdicts on the claims."""
    checkpoint_every: int = bookkeeping(500)

    def __post_init__(self):
        if self.seed < 0:
            raise ValueError(f"seed must not be negative, got {self.seed}")
        if not 1 <= self.seeds <= 100:
            raise ValueError(f"seeds must be at least 1, 100 at most, got {self.seeds}")


def grid(*axes: Iterable[Any]) -> list[tuple[Any, ...]]:
    """All combinations, the last axis fastest: labels of a sweep's members."""
    return list(itertools.product(*axes))


class Study(Display):
    """A run's folder, its stages, its clock, and what it shows.

    Args:
        config: the paper's, a `Settings`.
        workdir: the run folder.
        progress: where to show what is going on.
        sources: the paper's own files, for the record of what made a stage.
        claims: a hash of the paper's claims, for the same.

    Attributes:
        seeds: of this run; runs with other seeds share none.
    """

    def __init__(
        self,
        config: Any,
        workdir: pathlib.Path,
        progress: Progress,
        *,
        sources: Sequence[pathlib.Path] = (),
        claims: str = "",
    ):
        self.config, self.progress = config, progress
        self.folder = RunFolder(workdir, harness.mathematics(config))
        super().__init__(self.folder.figures, decides=config.decide)
        code = (pathlib.Path(kljax.__path__[0]), pathlib.Path(__file__).parent)
        self.stages = Stages(self.folder, (*code, *sources), claims)
        self.seeds = tuple(100 * config.seed + i for i in range(config.seeds))
        self._members: dict[str, Sequence[Label]] = {}

    # ------------------------------------------------------------ stages

    def pin(self, **facts: Any) -> None:
        """What must be as it was when the run goes on (data's checksums, say).

        Raises:
            CheckpointError: the folder's stages were made with others.
        """
        facts = harness.plain(facts)
        self._hold(facts)
        self.metrics |= facts

    def _hold(self, facts: Mapping[str, Any]) -> None:
        found = self.folder.stage_result("pinned") or {}
        for name, value in facts.items():
            if found.setdefault(name, value) != value:
                raise CheckpointError(
                    f"{self.folder.path} was made with {name} = {found[name]}, now it "
                    f"is {value}; choose another folder, or delete this one"
                )
        self.folder.finish_stage("pinned", found)

    def once(self, label: Label, work: Callable[[], Any]) -> Any:
        """What `work()` returned: stored, or worked out, timed and then stored.

        Dicts (with any keys of words, numbers and tuples of them), lists, tuples,
        numbers, words and arrays come back as such; arrays as NumPy's.
        """
        found = self.stages.read(label)
        if found is not None:
            return found[0]
        with self.stages.clock(label):
            value = work()
        return self.stages.write(label, value)

    def each(
        self, label: Label, work: Callable[[Any], Any], over: Iterable[Name]
    ) -> dict[Name, Any]:
        """`once` for every one of them: `work(one)` by `one`, a stage each."""
        return {
            one: self.once(self._member(label, one), lambda one=one: work(one))
            for one in over
        }

    def fit(
        self,
        label: Label,
        players: Sequence[Player] | Step,
        state: TrainState,
        batches: Callable[[int], dict[str, Any]] = lambda n: {},
        *,
        steps: int,
        frozen: PyTree = None,
        evaluate: Callable[[TrainState], Mapping[str, Any]] | None = None,
        evaluate_every: int | None = None,
        log_every: int = 20,
    ) -> TrainState:
        """`kljax.training.fit` in this run's folder, timed; a finished one is read.

        Args:
            label: of the stage.
            players: who learns, or a step.
            state: from `init_state`; consumed.
            batches: `batches(n)` is the batch of step n + 1.
            steps: in all.
            frozen: what the losses see and nobody trains.
            evaluate: of the state, now and then; for `curve`.
            evaluate_every: steps between two of them (only the last one).
            log_every: steps between two lines of metrics.
        """
        step: Any = players if callable(players) else jit_step(make_step(players))
        train = lambda: fit(  # noqa: E731
            step,
            state,
            batches,
            steps=steps,
            frozen=frozen,
            run=self.folder,
            stage=slug(label),
            progress=self.progress,
            evaluate=evaluate,
            every=Every(
                self.config.checkpoint_every,
                log=min(log_every, steps),
                evaluate=evaluate_every or steps,
            ),
        )
        if self.stages.read(label) is not None:
            return train()
        with self.stages.clock(label):
            trained = jax.block_until_ready(train())
        self.stages.write(label, None)
        return trained

    def sweep(
        self,
        label: Label,
        players: Callable[[PyTree], Sequence[Player]],
        members: Mapping[Name, PyTree],
        state: TrainState | Callable[[PyTree], TrainState],
        batches: Batches = lambda n: {},
        *,
        steps: int,
        each: bool = False,
        frozen: PyTree = None,
        together: bool = True,
        evaluate: Callable[[TrainState], Mapping[str, Any]] | None = None,
        **options: Any,
    ) -> TrainState:
        """Trains many members; what comes back is stacked in their order.

        A member is known by its label: put where the stages are, one that is inserted
        later never goes on in another one's place.

        Args:
            label: of the stage, or the first part of the members' stages.
            players: `players(own)` of a member's own settings, which may be traced: a
                learning rate, a divergence's parameter, its images.
            members: label to own settings, numbers and arrays in trees of one shape.
            state: `state(own)` makes a member's first state; or all, stacked: copied.
            batches: `batches(n)` for all members alike.
            steps: in all.
            each: `batches(n, label)` then gives every member its own.
            frozen: what all losses see; it is not stacked.
            together: one program by `vmap`; False trains one after the other, which is
                faster for convolutions on a CPU. The numbers are the same.
            evaluate: a pure function of one member's state, for `curve`.
            options: `evaluate_every` and `log_every` of `fit`.
        """
        one = Sweep(players, members, state, batches, each, frozen, evaluate)
        labels = list(members)
        self._members[slug(label)] = [] if together else labels
        options["steps"] = steps
        if together:
            # The places of a stacked state have no names: hold them.
            self._hold({f"{slug(label)}/members": [slug(name) for name in labels]})
            return self.fit(label, **one.together(), **options)
        trained = [
            self.fit(self._member(label, name), **arguments, **options)
            for name, arguments in zip(labels, one.apart())
        ]
        return stacked(trained)

    def learn(
        self,
        label: Label,
        loss: Callable[..., Loss],
        members: Mapping[Name, dict[str, Any]],
        rule: optax.GradientTransformation,
        *,
        steps: int,
    ) -> dict[Name, PyTree]:
        """`sweep` of members that learn alone and without data: their parameters.

        Args:
            label: of the stage.
            loss: `loss(params, own, key)` of a member's own settings.
            members: label to own settings: "start", the first parameters; "seed", of
                the keys; and what the loss asks for.
            rule: of all of them.
            steps: in all.
        """

        def players(own: dict[str, Any]) -> list[Player]:
            of_own = lambda params, **given: loss(params, own, given["key"])  # noqa: E731
            return [Player("model", of_own, rule)]

        def state(own: dict[str, Any]) -> TrainState:
            start = {"model": own["start"]}
            return init_state(jax.random.key(own["seed"]), start, players(own))

        ends = self.sweep(label, players, members, state, steps=steps).params["model"]
        return {name: taken(ends, i) for i, name in enumerate(members)}

    @staticmethod
    def _member(label: Label, name: Label) -> Label:
        parts = [part if isinstance(part, tuple) else (part,) for part in (label, name)]
        return (*parts[0], *parts[1])

    @contextlib.contextmanager
    def task(self, title: str, total: int) -> Iterator[Callable[[int], None]]:
        """A line of progress; what it gives is told how much is done."""
        with contextlib.closing(self.progress.task(title, total)) as task:
            yield task.update

    def curve(self, label: Label, metric: str) -> tuple[np.ndarray, np.ndarray]:
        """Steps `[k]` and values `[k]` of a training stage, `[k, members]` of a sweep.

        Raises:
            KeyError: the stage logged no such metric.
        """
        if apart := self._members.get(slug(label)):
            found = [self.curve(self._member(label, name), metric) for name in apart]
            return found[0][0], np.stack([values for _, values in found], axis=-1)
        lines = [x for x in self.folder.metrics(slug(label)) if metric in x]
        if not lines:
            raise KeyError(f"stage {label!r} logged no {metric!r}")
        pick = lambda key: np.array([line[key] for line in lines], np.float64)  # noqa: E731
        return pick("step"), pick(metric)


def perform(
    module: Any, config: Any, *, workdir: pathlib.Path, progress: Progress
) -> Results:
    """Runs a paper: its evidence, and the verdicts on its claims."""
    sources = [
        pathlib.Path(str(one.__file__))
        for name, one in sorted(sys.modules.items())
        if f"{name}.".startswith(f"{module.__name__}.") and one.__file__
    ]
    claims = digest(module.CLAIMS)
    study = Study(config, workdir, progress, sources=sources, claims=claims)
    with contextlib.closing(study.folder):
        evidence = module.run(study)
        return Results(
            metrics=study.metrics,
            tables=tuple(study.tables),
            figures=tuple(study.figures),
            verdicts=verdicts(module.CLAIMS, evidence, decide=config.decide),
            scale=study.scale,
            made=tuple(study.stages.sessions()),
            remarks=tuple(study.stages.remarks()),
            seconds=study.stages.costs(),
        )
