"""The models of the logit fusion experiment and how they are trained, as stages."""

import dataclasses
import functools
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.fusion.batches import Corpus
from kljax.divergences import label_cross_entropy
from kljax.models.files.pretrained import Pretrained
from kljax.models.functional import parameter_count
from kljax.models.language.transformer import (
    PureTransformer,
    TransformerConfig,
    transformer,
)
from kljax.models.language.vocabulary import restricted
from kljax.training import (
    Every,
    Loss,
    Player,
    Progress,
    RunFolder,
    adam,
    clipped,
    fit,
    init_state,
    jit_step,
    make_step,
    warmup_cosine,
)
from kljax.typing import Array, PyTree

__all__ = ["FitConfig", "Models", "SizeConfig", "Trainer", "shrunk"]


@dataclasses.dataclass(frozen=True)
class SizeConfig:
    """A transformer: RMS norms, rotary positions, a plain MLP, tied head."""

    width: int = 64
    depth: int = 4
    heads: int = 4
    source: str = ""
    """A published model's name or folder in place of one trained here."""

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
    """A training run; no steps, no run."""

    steps: int
    batch: int
    rate: float
    muon: bool = True
    """Muon for matrices and Adam for the rest; else Adam for all."""


@dataclasses.dataclass(frozen=True)
class Models:
    """All parameters of one seed; experts and oracles by task
    (and "domain"); no oracles where the large model was not fine-tuned."""

    large: PyTree
    small: PyTree
    experts: dict[str, PyTree]
    oracles: dict[str, PyTree]


def optimizer(config: FitConfig) -> optax.GradientTransformation:
    """Warm-up, then a cosine to a tenth; the same recipe for every model."""
    rate = warmup_cosine(config.rate, config.steps, final=0.1)
    if not config.muon:
        return adam(rate)
    return clipped(optax.contrib.muon(rate, adam_b2=0.98))


def token_losses(apply: Callable, params: PyTree, batch: dict[str, Any]) -> Loss:
    """Mean cross-entropy over the tokens to be predicted, per row."""
    tokens, target = batch["tokens"], batch["target"][:, 1:]
    logits = apply(params, tokens[:, :-1])
    losses = label_cross_entropy(tokens[:, 1:], logits)
    right = (jnp.argmax(logits, axis=-1) == tokens[:, 1:]) | ~target
    count = jnp.maximum(target.sum(axis=1), 1)
    return Loss(
        jnp.where(target, losses, 0.0).sum(axis=1) / count,
        {"exact": right.all(axis=1).astype(jnp.float32)},
    )


def shrunk(model: Pretrained, kept: np.ndarray | None) -> tuple[Any, PyTree]:
    """A published model on some of its vocabulary: function and parameters."""
    if kept is None:
        return model.apply, model.params
    config, params = restricted(model.config, model.params, kept)
    return transformer(config)[0], params


class Trainer:
    """Trains the two sizes; every model is a stage that is read back when finished.

    Args:
        config: of the experiment.
        folder: of the run.
        progress: where to show it.
        vocab_size: of all models trained here.
        published: models that are not trained here, by size, on that vocabulary.
    """

    def __init__(
        self,
        config: Any,
        folder: RunFolder,
        progress: Progress,
        vocab_size: int,
        published: dict[str, tuple[PureTransformer, PyTree]],
    ):
        self.config, self.folder, self.progress = config, folder, progress
        self.published = published
        self.apply: dict[str, PureTransformer] = {}
        self.initial: dict[str, Callable[[Array], PyTree]] = {}
        for size in ("large", "small"):
            if size in published:
                self.apply[size] = published[size][0]
                continue
            shape = getattr(config, size).transformer(vocab_size, config.max_length)
            self.apply[size], self.initial[size] = transformer(shape)

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
        wall, cpu = time.perf_counter(), time.process_time()
        state = fit(
            step,
            state,
            batches,
            steps=fitting.steps,
            run=self.folder,
            stage=stage,
            every=Every(self.config.checkpoint_every, log=min(20, fitting.steps)),
            progress=self.progress,
        )
        trained = jax.block_until_ready(state.params["model"])
        if self.folder.stage_result(stage) is None:
            spent = {
                "wall_seconds": time.perf_counter() - wall,
                "cpu_seconds": time.process_time() - cpu,
                "steps": fitting.steps,
            }
            self.folder.finish_stage(stage, spent)
        return trained

    def base(self, size: str, corpus: Corpus, seed: int) -> PyTree:
        """A model before fine-tuning: published, or pretrained here."""
        if size in self.published:
            return self.published[size][1]
        fitting = getattr(self.config, f"{size}_pretraining")
        key = jax.random.fold_in(jax.random.key(seed), size == "small")
        return self.fit(
            f"pretrain-{size}-s{seed}",
            size,
            fitting,
            self.initial[size](key),
            corpus.pretraining(fitting.batch),
            seed,
        )

    def tuned(
        self, role: str, size: str, base: PyTree, corpus: Corpus, seed: int
    ) -> dict[str, PyTree]:
        """The base fine-tuned on every task (and on the other domain, if any)."""
        fitting = getattr(self.config, role)
        if not fitting.steps:
            return {}
        tasks = [*corpus.tasks.names()[0], *(["domain"] if len(corpus.domain) else [])]
        return {
            task: self.fit(
                f"{role}-{task}-s{seed}",
                size,
                fitting,
                base,
                corpus.tuning(task, fitting.batch),
                seed,
            )
            for task in tasks
        }

    def models(self, corpus: Corpus, seed: int) -> Models:
        """Everything of one seed: two bases, an expert and an oracle per task."""
        large = self.base("large", corpus, seed)
        small = self.base("small", corpus, seed)
        return Models(
            large,
            small,
            self.tuned("expert", "small", small, corpus, seed),
            self.tuned("oracle", "large", large, corpus, seed),
        )

    def weights(self) -> dict[str, int]:
        """Weights of the two sizes."""
        found = {}
        for size in ("large", "small"):
            if size in self.published:
                tree = self.published[size][1]
            else:
                tree = jax.eval_shape(self.initial[size], jax.random.key(0))
            found[size] = parameter_count(tree)
        return found
