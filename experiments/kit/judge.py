"""A judge of generated images: a classifier that was trained on real ones alone.

From a fixed seed, whatever the seed of the run; what is judged takes no part in it.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.kit.study import Study
from kljax.data.images import Pictures
from kljax.divergences import cross_entropy
from kljax.metrics import FeatureJudge
from kljax.models.functional import functional
from kljax.models.vision.classifier import ConvClassifier, random_shift
from kljax.training import Loss, Player, init_state, state_digest


@dataclasses.dataclass(frozen=True)
class JudgeConfig:
    samples: int = 10_000
    """Generated images per model."""
    neighbors: int = 3
    """k of precision, recall and coverage."""
    at_most: int = 5000
    """Images per side for precision, recall and coverage."""
    copies: int = 2000
    """Generated images whose nearest training image is looked up."""
    seed: int = 0
    """Of the classifier: fixed, whatever the seed of the run."""
    steps: int = 600
    batch: int = 128
    learning_rate: float = 2e-3
    weight_decay: float = 0.1
    label_smoothing: float = 0.1
    shift: float = 0.7
    """Largest random shift in pixels."""


def judge_of(
    study: Study, pictures: Pictures, config: JudgeConfig
) -> tuple[FeatureJudge, dict[str, Any]]:
    """The judge (stage "classifier"), and its accuracy on held-out images, hash and
    what it was trained on: labels, or clusters of the pixels where there are none."""
    labelled, note = pictures, "labels"
    if pictures.train_ids is None or pictures.num_classes < 2:
        labelled = pictures.grouped(config.seed)
        note = f"{labelled.num_classes} k-means clusters of the pixels (no labels)"
    classes, (size, _, channels) = labelled.num_classes, pictures.shape
    apply, params = functional(
        lambda rngs: ConvClassifier(size, channels, classes, rngs=rngs),
        jax.random.key(config.seed),
    )

    def loss(params, *, state, frozen, batch, key):
        logits, _ = apply(params, random_shift(key, batch["x"], limit=config.shift))
        hot = jax.nn.one_hot(batch["ids"], classes)
        target = optax.smooth_labels(hot, config.label_smoothing)
        return Loss(cross_entropy(jnp.log(target), logits))

    rate = optax.cosine_decay_schedule(config.learning_rate, config.steps)
    rule = optax.adamw(rate, weight_decay=config.weight_decay)
    players = [Player("classifier", loss, rule)]
    key, role = jax.random.key(config.seed + 1), "classifier"
    state = init_state(key, {role: params}, players)
    given = role, players, state, labelled.batches(config.batch, config.seed, 3)
    trained = study.fit(*given, steps=config.steps).params[role]
    sizes = {k: getattr(config, k) for k in ("neighbors", "at_most", "copies")}
    judge = FeatureJudge(jax.jit(functools.partial(apply, trained)), pictures, **sizes)
    right = judge.features(pictures.held_out)[1] == labelled.held_out_ids
    facts = {"accuracy": float(np.mean(right)), "sha256": state_digest(trained)}
    return judge, {**facts, "trained_on": note}
