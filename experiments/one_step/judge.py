"""How generated images are judged in the f-distill experiment, and its controls.

A small convolutional classifier, trained from a fixed seed on real images only, gives
64 features for `kljax.metrics.FeatureJudge`.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from kljax.data.images import Pictures
from kljax.divergences import cross_entropy
from kljax.metrics import FeatureJudge
from kljax.models.functional import functional
from kljax.models.vision.classifier import ConvClassifier, random_shift
from kljax.training import (
    Loss,
    Player,
    Progress,
    RunFolder,
    fit,
    init_state,
    make_step,
    state_digest,
)
from kljax.typing import Float, Int

CLUSTERS = 10


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


def trained_judge(
    pictures: Pictures, config: JudgeConfig, run: RunFolder, progress: Progress
) -> tuple[FeatureJudge, dict[str, Any]]:
    """Trains the classifier (stage `classifier`), or reads it back."""
    labels, held_out_labels, note = pictures.train_ids, pictures.held_out_ids, "labels"
    if labels is None or pictures.num_classes < 2:
        labels, held_out_labels = clusters(pictures, config.seed)
        note = f"{labels.max() + 1} k-means clusters of the pixels (no labels)"
    classes = int(max(labels.max() + 1, pictures.num_classes))
    size, _, channels = pictures.shape
    apply, params = functional(
        lambda rngs: ConvClassifier(size, channels, classes, rngs=rngs),
        jax.random.key(config.seed),
    )

    def loss(params, *, state, frozen, batch, key):
        logits, _ = apply(params, random_shift(key, batch["x"], limit=config.shift))
        target = optax.smooth_labels(
            jax.nn.one_hot(batch["ids"], classes), config.label_smoothing
        )
        return Loss(cross_entropy(jnp.log(target), logits))

    rate = optax.cosine_decay_schedule(config.learning_rate, config.steps)
    optimizer = optax.adamw(rate, weight_decay=config.weight_decay)
    players = [Player("classifier", loss, optimizer)]
    state = fit(
        make_step(players),
        init_state(jax.random.key(config.seed + 1), {"classifier": params}, players),
        dataclasses.replace(pictures, train_ids=labels).batches(
            config.batch, config.seed, 3
        ),
        steps=config.steps,
        run=run,
        stage="classifier",
        progress=progress,
    )
    params = state.params["classifier"]
    judge = FeatureJudge(
        jax.jit(functools.partial(apply, params)),
        pictures,
        neighbors=config.neighbors,
        at_most=config.at_most,
        copies=config.copies,
    )
    predicted = judge.features(pictures.held_out)[1]
    return judge, {
        "accuracy": float(np.mean(predicted == held_out_labels)),
        "sha256": state_digest(params),
        "trained_on": note,
    }


def clusters(
    pictures: Pictures, seed: int
) -> tuple[Int[np.ndarray, "n"], Int[np.ndarray, "m"]]:
    """Pseudo-labels for data without labels: k-means on at most 5,000 images."""
    from sklearn.cluster import KMeans

    train = pictures.train.reshape(len(pictures.train), -1)
    held_out = pictures.held_out.reshape(len(pictures.held_out), -1)
    rows = np.random.default_rng(seed).permutation(len(train))[:5000]
    k = min(CLUSTERS, max(2, len(rows) // 20))
    model = KMeans(k, n_init=1, random_state=seed).fit(train[rows])
    return (
        model.predict(train).astype(np.int32),
        model.predict(held_out).astype(np.int32),
    )


def rank_correlation(a: Float[np.ndarray, "n"], b: Float[np.ndarray, "n"]) -> float:
    """Spearman's coefficient of two samples without ties; nan for constants."""
    if np.ptp(a) < 1e-12 or np.ptp(b) < 1e-12:
        return float("nan")
    ranks = [np.argsort(np.argsort(v)).astype(np.float64) for v in (a, b)]
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])
