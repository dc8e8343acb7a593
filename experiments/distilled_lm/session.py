"""The stages of a run: each is worked out once, stored, and read back.

text -> teacher (and its stored hidden states) -> students -> scores
"""

import functools
import pathlib
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.distilled_lm.scores import judge, scores
from experiments.distilled_lm.students import TEXT, Method, Student
from experiments.distilled_lm.teachers import (
    Teacher,
    features,
    own_config,
    text_optimizer,
    text_player,
    tokenizer_of,
)
from experiments.harness import mathematics
from kljax.data.batching import passes
from kljax.data.text import read_corpus
from kljax.divergences import Hidden, Logits, dense_logits
from kljax.metrics import token_measures
from kljax.models.functional import parameter_count
from kljax.models.language.transformer import transformer
from kljax.models.language.vocabulary import restricted
from kljax.objectives.distillation import distillation_loss
from kljax.training import (
    Every,
    Progress,
    RunFolder,
    TrainState,
    fit,
    init_state,
    jit_step,
    make_step,
)
from kljax.typing import Array, Float, Int, PyTree


class Session:
    """A run's text, models and stages."""

    def __init__(self, config: Any, folder: pathlib.Path, progress: Progress):
        self.methods = {name: Method.parse(name) for name in config.methods}
        self.config, self.progress = config, progress
        self.pretrained = None
        if config.teacher.source is not None:
            from kljax.models.files.pretrained import from_pretrained

            self.pretrained = from_pretrained(config.teacher.source)
        encode, end = tokenizer_of(self.pretrained)
        self.corpus = read_corpus(config.data, encode, end)
        # Other text behind the same settings must not go on with these stages.
        chosen = {"text_sha256": self.corpus.sha256}
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
        students = [self.label(m, s) for s in self.seeds for m in self.methods]
        names = ("states", *(f"student-{label}" for label in students))
        found = {name: self.run.stage_result(name) for name in names}
        return {
            name: (result["cpu_seconds"], result["wall_seconds"])
            for name, result in found.items()
            if result is not None
        }

    @staticmethod
    def label(method: str, seed: int) -> str:
        return f"{method.replace('/', '-')}-s{seed}"

    def fitted(self, stage: str, player: Any, state: Any, steps: int, **rest: Any):
        """`fit` with this run's folder and progress; a finished stage is read back."""
        return fit(
            jit_step(make_step([player])),
            state,
            steps=steps,
            run=self.run,
            stage=stage,
            progress=self.progress,
            every=Every(
                self.config.checkpoint_every,
                log=min(10, steps),
                evaluate=max(1, steps // self.config.evaluations),
            ),
            **rest,
        )

    def batches(
        self, size: int, order: list[int], states: np.ndarray | None = None
    ) -> Callable[[int], dict[str, np.ndarray]]:
        """`batch(n)`: windows in an order drawn anew for every pass over the text.

        `order` seeds it; without `states` the batch is of text alone.
        """
        windows = self.corpus.train
        drawn = passes(len(windows), size, *order)

        def batch(n: int) -> dict[str, np.ndarray]:
            rows = drawn(n)
            found = {"tokens": windows[rows, :-1], "labels": windows[rows, 1:]}
            found["token_weights"] = np.ones(found["labels"].shape, np.float32)
            return found if states is None else found | {"states": states[rows]}

        return batch

    # ------------------------------------------------------------ the teacher

    @functools.cached_property
    def teacher(self) -> Teacher:
        """The published model on the ids that occur, or one trained on their text."""
        if self.pretrained is not None:
            loaded, self.pretrained = self.pretrained, None
            sizes, params = restricted(loaded.config, loaded.params, self.corpus.ids)
            return Teacher(sizes, transformer(sizes)[0], params)
        config = self.config.teacher
        sizes = own_config(config, len(self.corpus.ids), self.config.data.length)
        apply, draw = transformer(sizes)
        optimizer = text_optimizer(config.learning_rate, config.steps)
        player = text_player("teacher", apply, sizes, optimizer)
        key = jax.random.fold_in(jax.random.key(self.config.seed), 1)
        state = init_state(key, {"teacher": draw(key)}, [player])
        batches = self.batches(config.batch, [self.config.seed, 0])
        state = self.fitted("teacher", player, state, config.steps, batches=batches)
        return Teacher(sizes, apply, state.params["teacher"])

    @functools.cached_property
    def states(self) -> tuple[np.ndarray, np.ndarray]:
        """The teacher's hidden states on both texts, float16, read from the disk."""
        sets = {"train": self.corpus.train, "held_out": self.corpus.held_out}
        folder = self.run.path / "states"

        def work() -> dict[str, Any]:
            folder.mkdir(exist_ok=True)
            for name, windows in sets.items():
                task = self.progress.task(f"teacher reads {name}", len(windows))
                note = lambda done, task=task: task.update(done)  # noqa: E731
                found = features(self.teacher, windows, 8, note)
                task.close()
                if not np.isfinite(found).all():
                    raise FloatingPointError(
                        f"the teacher's states on {name} do not fit float16"
                    )
                beside = folder / f".{name}.npy"
                np.save(beside, found)
                beside.replace(folder / f"{name}.npy")
            return {"bytes": sum(p.stat().st_size for p in folder.glob("*.npy"))}

        self.stage("states", work)
        read = lambda name: np.load(folder / f"{name}.npy", mmap_mode="r")  # noqa: E731
        return read("train"), read("held_out")

    @functools.cached_property
    def held_out(self) -> Hidden:
        return self.teacher.side(self.states[1], self.teacher.head, self.teacher.bias)

    # ------------------------------------------------------------ the students

    @functools.cached_property
    def student(self) -> Student:
        return Student(self.config.student, self.teacher, self.config.data.length)

    @functools.cached_property
    def measure(self) -> Callable[..., dict[str, Array]]:
        return judge(self.student)

    @functools.cache  # noqa: B019 (one session per run)
    def started(self, seed: int) -> PyTree:
        """Parameters that all students of a seed begin with."""
        config = self.config.student
        key = jax.random.fold_in(jax.random.key(seed), 2)
        params = self.student.initial(key)
        if not config.text_steps:
            return params
        player = self.student.player(Method(TEXT), config.text_rate, config.text_steps)
        state = self.fitted(
            f"text-s{seed}",
            player,
            init_state(jax.random.fold_in(key, 1), {"student": params}, [player]),
            config.text_steps,
            batches=self.batches(config.batch, [seed, 1]),
        )
        return state.params["student"]

    def trained(self, method: str, seed: int) -> TrainState:
        """A student after its budget."""
        parsed, config = self.methods[method], self.config.student
        player = self.student.player(parsed, config.learning_rate, config.steps)
        key = jax.random.fold_in(jax.random.key(seed), 4)
        shown = self.corpus.held_out[: self.config.shown]
        nats = self.nats

        def evaluate(state: TrainState) -> dict[str, float]:
            params = state.params["student"]
            found = [nats(params, shown[i : i + 8]) for i in range(0, len(shown), 8)]
            return {"held_out/nats": float(jnp.concatenate(found).mean())}

        return self.fitted(
            f"train-{self.label(method, seed)}",
            player,
            init_state(key, {"student": self.started(seed)}, [player]),
            config.steps,
            batches=self.batches(config.batch, [seed, 2], self.states[0]),
            frozen=self.student.frozen(parsed),
            evaluate=evaluate,
        )

    @functools.cached_property
    def nats(self) -> Callable[..., Float[Array, "b"]]:
        """Mean nats per token of a few windows, compiled."""

        def run(params: PyTree, window: Int[Array, "b t"]) -> Float[Array, "b"]:
            q = dense_logits(self.student.side(params, window[:, :-1]))
            return token_measures(window[:, 1:], q)["nats"].mean(axis=1)

        return jax.jit(run)

    def score(self, method: str, seed: int) -> dict[str, Any]:
        """All measures of a student on the held-out text (stage `student-...`)."""
        if self.run.stage_result(f"student-{self.label(method, seed)}") is None:
            # Stages of their own, not part of this one's time.
            _ = self.states
            self.started(seed)

        def work() -> dict[str, Any]:
            started = time.perf_counter()
            state = self.trained(method, seed)
            params = jax.block_until_ready(state.params["student"])
            seconds = time.perf_counter() - started
            found = scores(self.measure, params, self.held_out, self.corpus.held_out)
            return {**found, "training_seconds": seconds}

        return self.stage(f"student-{self.label(method, seed)}", work)

    def start(self) -> dict[str, Any]:
        """What the students score before distillation (stage `start`)."""

        def work() -> dict[str, Any]:
            params = self.started(self.config.seed)
            return scores(self.measure, params, self.held_out, self.corpus.held_out)

        return self.stage("start", work)

    def teacher_scores(self) -> dict[str, Any]:
        """The teacher on the same text (stage `teacher-scores`)."""

        def work() -> dict[str, Any]:
            return scores(self.measure, None, self.held_out, self.corpus.held_out)

        return self.stage("teacher-scores", work)

    def curve(self, method: str, seed: int) -> tuple[list[int], list[float]]:
        """Held-out nats while training, on the windows that are shown."""
        lines = self.run.metrics(f"train-{self.label(method, seed)}")
        kept = [line for line in lines if "held_out/nats" in line]
        return [x["step"] for x in kept], [x["held_out/nats"] for x in kept]

    # ------------------------------------------------------------ the kernel

    def fused(self) -> dict[str, Any]:
        """The fused loss against logits of all tokens, on one batch (stage `fused`)."""

        def work() -> dict[str, Any]:
            batch = self.batches(self.config.student.batch, [0], self.states[0])(0)
            params = self.started(self.config.seed)
            side = jax.jit(self.student.side)(params, batch["tokens"])
            found: dict[str, Any] = {}
            values = {}
            for form in ("fused", "dense"):

                def loss(states, head, cached, teacher_head, form=form):
                    bias = self.teacher.bias
                    p = self.teacher.side(cached, teacher_head, bias)
                    q = side._replace(states=states, head=head)
                    if form == "dense":
                        p, q = (Logits(dense_logits(x)) for x in (p, q))
                    size = self.config.data.length  # one window at a time
                    return distillation_loss(p, q, reduction="mean", chunk_size=size)[0]

                run = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))
                arrays = side.states, side.head, batch["states"], self.teacher.head
                compiled = run.lower(*arrays).compile()
                memory: Any = compiled.memory_analysis()
                found[f"{form}/temporaries"] = int(memory.temp_size_in_bytes)
                values[form] = compiled(*arrays)
            norms = [
                float(jnp.linalg.norm(a - b) / jnp.maximum(jnp.linalg.norm(b), 1e-30))
                for a, b in zip(*(jax.tree.leaves(values[f]) for f in values))
            ]
            return found | {"difference": max(norms)}

        return self.stage("fused", work)

    # ------------------------------------------------------------ what is shown

    def results(self) -> dict[str, Any]:
        """Everything that verdicts, tables and pictures need."""
        rows = {
            (method, seed): self.score(method, seed)
            for seed in self.seeds
            for method in self.methods
        }
        return {
            "rows": rows,
            "start": self.start(),
            "teacher": self.teacher_scores(),
            "fused": self.fused(),
            "curves": {key: self.curve(*key) for key in rows},
            "shown": self.config.shown,
        }

    def facts(self) -> dict[str, Any]:
        """What was run: text, models, seconds."""
        corpus = self.corpus

        def work() -> dict[str, Any]:
            student = jax.eval_shape(self.student.initial, jax.random.key(0))
            return {
                "teacher/parameters": parameter_count(self.teacher.params),
                "student/parameters": parameter_count(student),
            }

        sizes = {k: v for k, v in self.stage("sizes", work).items() if "/" in k}
        return sizes | {
            "text/sha256": corpus.sha256,
            "text/train_windows": len(corpus.train),
            "text/held_out_windows": len(corpus.held_out),
            "text/vocabulary": len(corpus.ids),
            "text/characters_per_token": corpus.characters,
            "seconds": {k: list(v) for k, v in self.costs().items()},
        }
