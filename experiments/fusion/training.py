"""The models of the logit fusion experiment and how they are trained, as stages."""

import dataclasses
import functools
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from experiments.fusion.batches import Corpus
from experiments.fusion.tasks import TASKS
from kljax.models.functional import parameter_count
from kljax.models.transformer import (
    PureTransformer,
    TransformerConfig,
    transformer,
)
from kljax.training import (
    Loss,
    Player,
    Progress,
    RunFolder,
    fit,
    init_state,
    jit_step,
    make_step,
)
from kljax.typing import PyTree

__all__ = ["FitConfig", "Models", "SizeConfig", "Trainer"]


@dataclasses.dataclass(frozen=True)
class SizeConfig:
    """A transformer: RMS norms, rotary positions, a plain MLP, tied head."""

    width: int
    depth: int
    heads: int

    def transformer(self, vocab_size: int, max_length: int) -> TransformerConfig:
        return TransformerConfig(
            vocab_size=vocab_size,
            width=self.width,
            depth=self.depth,
            heads=self.heads,
            max_length=max_length,
            mlp="plain",
            activation="gelu_tanh",
        )


@dataclasses.dataclass(frozen=True)
class FitConfig:
    """A training run: Muon for matrices, Adam for the rest, cosine to a tenth."""

    steps: int
    batch: int
    rate: float


@dataclasses.dataclass(frozen=True)
class Models:
    """All parameters of one seed; experts and oracles by task."""

    large: PyTree
    small: PyTree
    experts: dict[str, PyTree]
    oracles: dict[str, PyTree]


def optimizer(config: FitConfig) -> optax.GradientTransformation:
    """The same recipe for every model."""
    rate = optax.warmup_cosine_decay_schedule(
        0.0,
        config.rate,
        max(1, config.steps // 10),
        max(2, config.steps),
        config.rate / 10,
    )
    return optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.contrib.muon(rate, adam_b2=0.98),
    )


def token_losses(apply: Callable, params: PyTree, batch: dict[str, Any]) -> Loss:
    """Mean cross-entropy over the tokens to be predicted, per row."""
    tokens, target = batch["tokens"], batch["target"][:, 1:]
    logits = apply(params, tokens[:, :-1])
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 1:])
    right = (jnp.argmax(logits, axis=-1) == tokens[:, 1:]) | ~target
    count = jnp.maximum(target.sum(axis=1), 1)
    return Loss(
        jnp.where(target, losses, 0.0).sum(axis=1) / count,
        {"exact": right.all(axis=1).astype(jnp.float32)},
    )


class Trainer:
    """Trains the two sizes; every model is a stage that is read back when finished."""

    def __init__(
        self,
        config: Any,
        folder: RunFolder,
        progress: Progress,
        vocab_size: int,
        max_length: int,
    ):
        self.config, self.folder, self.progress = config, folder, progress
        built = {
            size: transformer(getattr(config, size).transformer(vocab_size, max_length))
            for size in ("large", "small")
        }
        self.apply: dict[str, PureTransformer] = {k: v[0] for k, v in built.items()}
        self.initial = {k: v[1] for k, v in built.items()}

    @functools.cache  # noqa: B019 (one trainer per run)
    def step(self, size: str, fitting: FitConfig) -> tuple[Any, list[Player]]:
        """A compiled step of a size, shared by all its models."""
        apply = self.apply[size]

        def loss(params, *, state, frozen, batch, key):
            return token_losses(apply, params, batch)

        players = [Player("model", loss, optimizer(fitting))]
        return jit_step(make_step(players)), players

    def fit(
        self,
        stage: str,
        size: str,
        fitting: FitConfig,
        params: PyTree,
        batches: Callable[[int], dict[str, Any]],
        seed: int,
    ) -> PyTree:
        """The parameters after training."""
        step, players = self.step(size, fitting)
        state = init_state(jax.random.key(seed), {"model": params}, players)
        started = time.perf_counter()
        state = fit(
            step,
            state,
            batches,
            steps=fitting.steps,
            run=self.folder,
            stage=stage,
            checkpoint_every=self.config.checkpoint_every,
            log_every=min(20, fitting.steps),
            progress=self.progress,
        )
        trained = jax.block_until_ready(state.params["model"])
        if self.folder.stage_result(stage) is None:
            self.folder.finish_stage(
                stage, {"wall_seconds": time.perf_counter() - started}
            )
        return trained

    def models(self, corpus: Corpus, seed: int) -> Models:
        """Everything of one seed: two bases, an expert and an oracle per task."""
        config = self.config
        keys = jax.random.split(jax.random.key(seed))
        bases = {}
        for size, key in zip(("large", "small"), keys, strict=True):
            fitting = getattr(config, f"{size}_pretraining")
            bases[size] = self.fit(
                f"pretrain-{size}-s{seed}",
                size,
                fitting,
                self.initial[size](key),
                corpus.pretraining(fitting.batch),
                seed,
            )
        tuned: dict[str, dict[str, PyTree]] = {}
        for size, role in (("small", "expert"), ("large", "oracle")):
            fitting = getattr(config, role)
            tuned[role] = {
                task: self.fit(
                    f"{role}-{task}-s{seed}",
                    size,
                    fitting,
                    bases[size],
                    corpus.tuning(task, fitting.batch),
                    seed,
                )
                for task in TASKS
            }
        return Models(bases["large"], bases["small"], tuned["expert"], tuned["oracle"])

    def weights(self) -> dict[str, int]:
        """Weights of the two sizes."""
        return {
            size: parameter_count(jax.eval_shape(initial, jax.random.key(0)))
            for size, initial in self.initial.items()
        }
