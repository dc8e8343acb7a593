"""The stages of an f-distill run: each is trained once, stored, and read back.

Stages depend on one another through methods that remember their answer, so a run that
goes on loads only what the unfinished stages need.
"""

import dataclasses
import functools
import math
import pathlib
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from experiments.harness import Figure, mathematics
from experiments.one_step.figures import (
    draw_bars,
    draw_grid,
    keep_images,
)
from experiments.one_step.judge import rank_correlation, trained_judge
from experiments.one_step.networks import build_networks
from experiments.one_step.sampling import Sampling
from experiments.one_step.training import (
    distillation_players,
    gap_probe,
    parsed,
    student_inputs,
    swept,
    teacher_player,
)
from kljax.data import from_unit
from kljax.data.images import first_of_classes, load_pictures
from kljax.metrics import FeatureJudge
from kljax.models.vision import edm
from kljax.training import (
    Every,
    Progress,
    RunFolder,
    TrainState,
    fit,
    init_state,
    jit_step,
    make_step,
    stacked,
    taken,
)
from kljax.typing import PyTree

Row = dict[str, float]
Scores = dict[tuple[str, int], Row]
PROBES = 4096


class Session:
    """A run's data, networks and stages."""

    def __init__(self, config: Any, folder: pathlib.Path, progress: Progress):
        for student in config.students:
            parsed(student)
        self.config, self.progress = config, progress
        data = config.data
        source = pathlib.Path(data.path) if data.path else data.name
        self.pictures = load_pictures(source, root=data.root, fetch=data.fetch)
        self.nets = build_networks(
            config.model,
            self.pictures,
            config.teacher.batch,
            config.student.batch,
            config.student.start_sigma,
        )
        codes = self.nets.codec.encode(self.pictures.train)
        self.codes = dataclasses.replace(self.pictures, train=codes)
        # Other data behind the same path, or another network chosen for another
        # machine, must not go on with these stages.
        chosen = {
            "data_sha256": self.pictures.manifest["sha256"],
            "network": self.nets.description,
            "batches": [self.nets.teacher_batch, self.nets.student_batch],
        }
        self.run = RunFolder(folder, mathematics(config) | chosen)
        self.seeds = range(config.seed, config.seed + config.seeds)

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, *exception: object) -> None:
        self.run.close()

    # ------------------------------------------------------------ bookkeeping

    def stage(self, name: str, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The stage's result: stored, or worked out, timed and then stored."""
        found = self.run.stage_result(name)
        if found is None:
            wall, cpu = time.perf_counter(), time.process_time()
            found = work()
            found |= {
                "wall_seconds": time.perf_counter() - wall,
                "cpu_seconds": time.process_time() - cpu,
            }
            self.run.finish_stage(name, found)
        return found

    def costs(self) -> dict[str, tuple[float, float]]:
        """CPU and wall seconds by stage; of a resumed one, since it was resumed."""
        names = ["classifier"]
        for seed in self.seeds:
            labels = [f"{s.replace('/', '-')}-s{seed}" for s in self.config.students]
            names += [f"teacher-s{seed}", f"score-teacher-s{seed}", f"students-s{seed}"]
            for label in labels:
                names += [f"student-{label}", f"score-{label}"]
        found = {name: self.run.stage_result(name) for name in (*names, "controls")}
        return {
            name: (result["cpu_seconds"], result["wall_seconds"])
            for name, result in found.items()
            if result is not None
        }

    def fitted(self, stage: str, step: Any, state: Any, steps: int, **rest: Any) -> Any:
        """`fit` with this run's folder and progress; a finished stage is read back."""
        return fit(
            step,
            state,
            steps=steps,
            run=self.run,
            stage=stage,
            progress=self.progress,
            every=Every(self.config.checkpoint_every),
            **rest,
        )

    # ------------------------------------------------------------ what is trained

    @functools.cached_property
    def judge(self) -> FeatureJudge:
        judge, self._judge_facts = trained_judge(
            self.pictures, self.config.judge, self.run, self.progress
        )
        return judge

    def judge_facts(self) -> dict[str, Any]:
        """Accuracy and hash of the classifier."""

        def work() -> dict[str, Any]:
            _ = self.judge
            return dict(self._judge_facts)

        return self.stage("classifier", work)

    @functools.cache  # noqa: B019 (one session per run)
    def teacher(self, seed: int) -> PyTree:
        """The teacher's averaged parameters."""
        config, stage = self.config.teacher, f"teacher-s{seed}"
        out: list[Any] = []

        def work() -> dict[str, Any]:
            key = jax.random.fold_in(jax.random.key(seed), 1)
            player = teacher_player(self.nets, config, self.pictures.num_classes)
            params = {"teacher": self.nets.initial(key)["denoiser"]}
            state = self.fitted(
                stage,
                make_step([player]),
                init_state(jax.random.fold_in(key, 1), params, [player]),
                config.steps,
                batches=self.codes.batches(self.nets.teacher_batch, seed, 1),
            )
            out.append(jax.block_until_ready(state.ema["teacher"]))
            return {}

        self.stage(stage, work)
        if not out:
            work()
        return out[0]

    @functools.cached_property
    def players(self) -> Any:
        return distillation_players(self.nets, self.config.student)

    @functools.cached_property
    def student_step(self) -> Any:
        return jit_step(make_step(self.players))

    @functools.cached_property
    def swept_step(self) -> Any:
        return jit_step(swept(self.players))

    def inputs(self, student: str, seed: int) -> tuple[TrainState, dict[str, Any]]:
        """A student's first state and its frozen inputs."""
        divergence, gan = parsed(student)
        config = self.config.student
        return student_inputs(
            self.nets,
            config,
            self.players,
            self.teacher(seed),
            divergence=divergence,
            gan_weight=config.gan_weight if gan else 0.0,
            seed=seed,
        )

    @functools.cache  # noqa: B019
    def student(self, student: str, seed: int) -> tuple[TrainState, dict[str, Any]]:
        """A trained student's state and its frozen inputs."""
        self.teacher(seed)  # a stage of its own, not part of this one's time
        if self.config.together:
            state, frozen = self.students_together(seed)
            place = self.config.students.index(student)
            return taken(state, place), taken(frozen, place)
        stage = f"student-{student.replace('/', '-')}-s{seed}"
        out: list[Any] = []

        def work() -> dict[str, Any]:
            state, frozen = self.inputs(student, seed)
            state = self.fitted(
                stage,
                self.student_step,
                state,
                self.config.student.steps,
                frozen=frozen,
                batches=self.codes.batches(self.nets.student_batch, seed, 2),
            )
            out.append((jax.block_until_ready(state), frozen))
            return {}

        self.stage(stage, work)
        if not out:
            work()
        return out[0]

    @functools.cache  # noqa: B019
    def students_together(self, seed: int) -> tuple[TrainState, dict[str, Any]]:
        """All students of a seed, stacked: one program, the same noise and batches."""
        stage = f"students-s{seed}"
        out: list[Any] = []

        def work() -> dict[str, Any]:
            pairs = [self.inputs(student, seed) for student in self.config.students]
            frozen = stacked([frozen for _, frozen in pairs])
            state = self.fitted(
                stage,
                self.swept_step,
                stacked([state for state, _ in pairs]),
                self.config.student.steps,
                frozen=frozen,
                batches=self.codes.batches(self.nets.student_batch, seed, 2),
            )
            out.append((jax.block_until_ready(state), frozen))
            return {}

        self.stage(stage, work)
        if not out:
            work()
        return out[0]

    # ------------------------------------------------------------ what is judged

    @functools.cached_property
    def sampling(self) -> Sampling:
        count, steps = self.config.judge.samples, self.config.teacher.sampler_steps
        shape = self.codes.shape
        return Sampling(self.nets, self.pictures, shape, count, steps, self.progress)

    def score(self, name: str, seed: int) -> Row:
        """A model's row of the table (stage `score-...`)."""
        label = f"{name.replace('/', '-')}-s{seed}"

        def work() -> dict[str, Any]:
            extra: Row = {}
            if name == "teacher":
                sampler, params = "many", self.teacher(seed)
                extra["evaluations"] = edm.evaluations(
                    self.config.teacher.sampler_steps
                )
            else:
                state, frozen = self.student(name, seed)
                sampler, params = "one", state.ema["student"]
                extra = {"evaluations": 1} | self.gap(state, frozen, seed)
            images, ids, speed = self.sampling.images(
                sampler, params, seed, f"sample {label}"
            )
            rows = first_of_classes(ids, len(images), self.pictures.num_classes)
            keep_images(self.kept(label), images[rows])
            return {
                **self.judge.score(images, ids),
                **extra,
                "images_per_second": speed,
            }

        # What a stage needs is trained before its clock starts.
        if self.run.stage_result(f"score-{label}") is None:
            self.judge_facts()
            _ = self.judge
            self.teacher(seed)
            if name != "teacher":
                self.student(name, seed)
        return self.stage(f"score-{label}", work)

    def gap(self, state: TrainState, frozen: Any, seed: int) -> Row:
        """Rank correlation of the weight and the score gap (claim T9)."""
        key = jax.random.fold_in(jax.random.key(seed), 4)
        ids = self.pictures.sample_ids(PROBES)
        z = jax.random.normal(key, (PROBES, *self.codes.shape))
        found = self.gap_probe(state, frozen, z, ids, jax.random.fold_in(key, 1))
        found = {k: np.asarray(v, np.float64) for k, v in found.items()}
        inside = [
            rank_correlation(found["weight"][rows], found["gap"][rows])
            for b in np.unique(found["bin"])
            if (rows := np.flatnonzero(found["bin"] == b)).size > 20
        ]
        numbers = {
            "gap_correlation": rank_correlation(found["weight"], found["gap"]),
            "gap_correlation_within": float(np.mean(inside)),
            "score_gap_correlation": rank_correlation(
                found["weight"], found["gap"] / found["sigma"] ** 2
            ),
            "effective_fraction": float(
                found["weight"].mean() ** 2 / np.mean(found["weight"] ** 2)
            ),
        }
        # Reverse KL weighs everything alike: no correlation to speak of.
        return {k: v for k, v in numbers.items() if math.isfinite(v)}

    @functools.cached_property
    def gap_probe(self) -> Any:
        return gap_probe(self.nets, self.config.student)

    def scores(self) -> Scores:
        """Rows of all models, teacher first."""
        names = ("teacher", *self.config.students)
        self.judge_facts()
        return {
            (name, seed): self.score(name, seed)
            for seed in self.seeds
            for name in names
        }

    def controls(self) -> dict[str, Row]:
        """What real images and two bad models score (stage `controls`)."""
        result = self.stage(
            "controls",
            lambda: self.judge.controls(self.nets.codec, self.config.judge.samples),
        )
        return {k: v for k, v in result.items() if isinstance(v, dict)}

    # ------------------------------------------------------------ what is shown

    def facts(self) -> dict[str, Any]:
        """What was run: data, network, judge."""
        manifest, judge = self.pictures.manifest, self.judge_facts()
        kept = ("name", "source", "sha256", "synthetic", "known_content", "split_rule")
        return {
            "data": {k: manifest.get(k) for k in kept},
            "data/shape": list(self.pictures.shape),
            "data/train": len(self.pictures.train),
            "data/held_out": len(self.pictures.held_out),
            "data/classes": self.pictures.num_classes,
            "data/sigma": self.nets.sigma_data,
            "denoiser": self.nets.description,
            "denoiser/parameters": self.nets.parameters,
            "batch/teacher": self.nets.teacher_batch,
            "batch/student": self.nets.student_batch,
            "student/start_sigma": self.nets.start_sigma,
            "judge/accuracy": judge["accuracy"],
            "judge/sha256": judge["sha256"],
            "judge/trained_on": judge["trained_on"],
        }

    def kept(self, label: str) -> pathlib.Path:
        """Where a few images of a model lie, for the picture."""
        return self.run.path / "samples" / f"{label}.npz"

    def figures(self, scores: Scores, controls: dict[str, Row]) -> tuple[Figure, ...]:
        """The grid of pictures and the bars of the numbers."""
        pictures, seed = self.pictures, self.config.seed
        real = from_unit(pictures.train, pictures.levels)
        rows = first_of_classes(pictures.train_ids, len(real), pictures.num_classes)
        panels = {"real": real[rows]}
        for name in ("teacher", *self.config.students):
            with np.load(self.kept(f"{name.replace('/', '-')}-s{seed}")) as file:
                panels[f"{name}, {scores[name, seed]['evaluations']:.0f} eval."] = file[
                    "images"
                ]
        folder = self.run.figures
        draw_grid(folder / "samples.png", panels, pictures.levels)
        draw_bars(folder / "scores.png", scores, controls)
        chosen = "a class" if pictures.train_ids is not None else "no class"
        return (
            Figure(
                "samples.png",
                f"Real images, the teacher and its students (seed {seed}); each row is "
                f"{chosen}, all models saw the same noise.",
            ),
            Figure("scores.png", "Scores of all models and what real images score."),
        )
