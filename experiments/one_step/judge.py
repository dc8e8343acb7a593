"""How generated images are judged in the f-distill experiment, and its controls.

A small convolutional classifier, trained from a fixed seed on real images only, gives
64 features. Every image, real or generated, is clipped and rounded to the data's grey
levels first. Distances are in percent of the training images' feature variance.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import UInt8

from experiments.one_step.data import Codec, Pictures
from kljax.data import from_unit, to_unit
from kljax.data.batching import in_parts
from kljax.divergences import cross_entropy
from kljax.metrics.images import (
    frechet_distance,
    nearest_distances,
    precision_recall,
)
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
SPLITS = 5
"""Random splits of the real images whose halves set the floor."""


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


class Judge:
    """Features, distances, and what the training images score themselves."""

    def __init__(
        self, apply: Any, params: Any, pictures: Pictures, config: JudgeConfig
    ):
        self.config, self.pictures = config, pictures
        self._apply = jax.jit(functools.partial(apply, params))
        self.real = self.features(pictures.train)[0]
        self.unit = 100.0 / max(float(self.real.var(axis=0).sum()), 1e-12)
        rows = np.random.default_rng(0).permutation(len(self.real))
        self.some_real = self.real[rows[: config.at_most]]
        near, _ = self.nearest(pictures.held_out)
        self.close = float(np.quantile(near, 0.01))

    def features(
        self, images: Float[np.ndarray, "n h w c"]
    ) -> tuple[Float[np.ndarray, "n d"], Int[np.ndarray, "n"]]:
        """Features and predicted classes of images in [-1, 1]."""
        logits, features = in_parts(self._apply, 500, images)
        return features.astype(np.float64), logits.argmax(axis=1)

    def nearest(self, images: Float[np.ndarray, "n h w c"]) -> tuple[Any, Any]:
        """Pixel distances to the two nearest training images."""
        return nearest_distances(images[: self.config.copies], self.pictures.train)

    def distance(self, real: np.ndarray, fake: np.ndarray) -> float:
        """Fréchet distance of features, in percent of the training variance."""
        return frechet_distance(real, fake) * self.unit

    def score(
        self, images: UInt8[np.ndarray, "n h w c"], ids: Int[np.ndarray, "n"] | None
    ) -> dict[str, float]:
        """All numbers of one row of the table, from rounded images."""
        x = to_unit(images, self.pictures.levels)
        features, predicted = self.features(x)
        count = min(len(features), len(self.some_real))
        spread = precision_recall(
            self.some_real[:count], features[:count], k=self.config.neighbors
        )
        near, second = self.nearest(x)
        ratios = variance_ratios(self.pictures, x, ids)
        out = {
            "fid": self.distance(self.real, features),
            **spread._asdict(),
            "variance_ratio_min": float(ratios.min()),
            "variance_ratio_mean": float(ratios.mean()),
            # A copy of a doubled training image is at distance 0 from both.
            "copies": float(np.mean((near < second / 3) | (near == 0))),
            "closer_than_held_out": float(np.mean(near < self.close)),
            "nearest_median": float(np.median(near)),
        }
        if ids is not None:
            out["class_agreement"] = float(np.mean(predicted == ids))
        return out

    def halves(self, features: Float[np.ndarray, "n d"], seed: int) -> dict[str, float]:
        """One random half of the real images against the other, of n each."""
        rows = np.random.default_rng(seed).permutation(len(features))
        n = len(features) // 2
        one, two = features[rows[:n]], features[rows[n : 2 * n]]
        most = self.config.at_most
        spread = precision_recall(one[:most], two[:most], k=self.config.neighbors)
        return {"fid": self.distance(one, two), **spread._asdict(), "n": float(n)}

    def controls(self, codec: Codec) -> dict[str, dict[str, float]]:
        """What real images score against each other, and two bad models.

        `floor` is the distance that as many fresh real images as there are samples
        would have: that of the halves, carried over by its 1/n + 1/m law.
        """
        pictures, config = self.pictures, self.config
        held_out, _ = self.features(pictures.held_out)
        every = np.concatenate([self.real, held_out])
        splits = [self.halves(every, seed) for seed in range(SPLITS)]
        halves = {k: float(np.mean([row[k] for row in splits])) for k in splits[0]}
        constant = halves["fid"] / (2 / halves["n"])
        floor = constant * (1 / config.samples + 1 / len(self.real))
        gaussian, ids = class_gaussians(pictures, config.samples)
        rows = np.random.default_rng(1).integers(len(self.real), size=config.samples)
        copies = from_unit(pictures.train[rows], pictures.levels)
        copied_ids = None if pictures.train_ids is None else pictures.train_ids[rows]
        near, _ = self.nearest(pictures.held_out)
        decoded = {}
        if codec.basis is not None:
            back = from_unit(
                codec.decode(codec.encode(pictures.train)), pictures.levels
            )
            decoded["decoded"] = {
                "fid": self.distance(
                    self.real, self.features(to_unit(back, pictures.levels))[0]
                )
            }
        return decoded | {
            "halves": halves | {"floor": floor},
            "held_out": {
                "fid": self.distance(self.real, held_out),
                "nearest_median": float(np.median(near)),
            },
            "gaussian": self.score(gaussian, ids),
            "resampled": self.score(copies, copied_ids),
        }


def trained_judge(
    pictures: Pictures, config: JudgeConfig, run: RunFolder, progress: Progress
) -> tuple[Judge, dict[str, Any]]:
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
    judge = Judge(apply, params, pictures, config)
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


def members_of(
    ids: Int[np.ndarray, "n"] | None, count: int, classes: int
) -> list[Int[np.ndarray, "k"]]:
    """Rows of every class, or all rows as one class."""
    if ids is None:
        return [np.arange(count)]
    return [np.flatnonzero(ids == c) for c in range(classes)]


def variance_ratios(
    pictures: Pictures,
    x: Float[np.ndarray, "n h w c"],
    ids: Int[np.ndarray, "n"] | None,
) -> Float[np.ndarray, "k"]:
    """Pixel variance of the generated images over the real ones', class by class."""
    classes = pictures.num_classes
    real = members_of(pictures.train_ids, len(pictures.train), classes)
    fake = members_of(None if ids is None else np.asarray(ids), len(x), classes)
    return np.array(
        [
            x[b].var(axis=0).sum() / max(pictures.train[a].var(axis=0).sum(), 1e-12)
            for a, b in zip(real, fake, strict=True)
            if len(a) > 1 and len(b) > 1
        ]
    )


def class_gaussians(
    pictures: Pictures, count: int
) -> tuple[UInt8[np.ndarray, "n h w c"], Int[np.ndarray, "n"] | None]:
    """Samples of one Gaussian per class in pixel space, with the classes' covariances.

    `m + X' w / sqrt(n - 1)` with centered images X and normal w has the covariance of
    the n images without its matrix ever being formed.
    """
    rng = np.random.default_rng(2)
    ids = pictures.sample_ids(count)
    out = np.empty((count, *pictures.shape), np.float32)
    classes = pictures.num_classes
    real = members_of(pictures.train_ids, len(pictures.train), classes)
    for a, b in zip(real, members_of(ids, count, classes), strict=True):
        if not len(a) or not len(b):
            continue
        # Wide data: more images than this no longer change the covariance's look.
        chosen = pictures.train[rng.permutation(a)[:2000]]
        mean = chosen.mean(axis=0)
        centered = (chosen - mean).reshape(len(chosen), -1)
        weights = rng.normal(size=(len(b), len(chosen))) / np.sqrt(
            max(len(chosen) - 1, 1)
        )
        draws = (weights.astype(np.float32) @ centered).reshape(-1, *pictures.shape)
        out[b] = mean + draws
    return from_unit(out, pictures.levels), ids


def rank_correlation(a: Float[np.ndarray, "n"], b: Float[np.ndarray, "n"]) -> float:
    """Spearman's coefficient of two samples without ties; nan for constants."""
    if np.ptp(a) < 1e-12 or np.ptp(b) < 1e-12:
        return float("nan")
    ranks = [np.argsort(np.argsort(v)).astype(np.float64) for v in (a, b)]
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])
