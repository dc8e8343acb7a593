"""A call of every public function of NumPy arrays, in the rooms above divergences."""

import jax.numpy as jnp
import numpy as np

from kljax import data, metrics
from kljax.data import arithmetic, batching, images, splits, text
from kljax.data.readers import labels, raw, values
from kljax.metrics import calibration, frontier
from kljax.theory import (
    boolean,
    compute_optimal,
    generalization,
    scaling,
    sources,
    stationary,
)

RNG = np.random.default_rng(0)


def normal(*sizes):
    return RNG.normal(size=sizes).astype(np.float32)


POSITIONS = {"first": normal(7, 3), "second": normal(9, 3)}
BYTES = RNG.integers(0, 256, (6, 4, 4, 1)).astype(np.uint8)
CLASSES = np.arange(6) % 2
PICTURES = images.Pictures(
    train=data.to_unit(BYTES),
    held_out=data.to_unit(BYTES),
    train_ids=CLASSES,
    held_out_ids=CLASSES,
    num_classes=2,
    levels=256,
    manifest={},
)
PROBABILITIES = {"probabilities": np.full((3, 2), 0.5), "labels": np.array([0, 1, 1])}
CONFIDENCE = {
    "confidence": np.array([0.5, 1.0]),
    "correct": np.array([True, False]),
}


def of_positions(function, **options):
    return (lambda first, second: function(first, second, **options)), POSITIONS


def of_moments(first, second):
    moments = [m for x in (first, second) for m in (x.mean(0), np.cov(x.T))]
    return metrics.frechet_distance_from_moments(*moments)


def classify(x, **_):
    return jnp.zeros((len(x), 2)), jnp.asarray(x).reshape(len(x), -1)[:, :3]


def judged(x, ids):
    judge = metrics.FeatureJudge(classify, PICTURES, neighbors=1, at_most=6, copies=4)
    return judge.score(x, ids)


PLAIN = {
    "calibration_error": (metrics.calibration_error, CONFIDENCE),
    "brier_score": (metrics.brier_score, PROBABILITIES),
    "classwise_calibration_error": (
        metrics.classwise_calibration_error,
        PROBABILITIES,
    ),
    "classification_scores": (
        calibration.classification_scores,
        {"logits": np.full((3, 2), 0.5), "labels": np.array([0, 1, 1])},
    ),
    "reliability": (metrics.reliability, CONFIDENCE),
    "frechet_distance": of_positions(metrics.frechet_distance),
    "frechet_distance_from_moments": (of_moments, POSITIONS),
    "precision_recall": of_positions(metrics.precision_recall, k=2),
    "nearest_distances": of_positions(metrics.nearest_distances),
    "mode_coverage": (
        metrics.mode_coverage,
        {**dict.fromkeys(("x", "means"), POSITIONS["first"]), "std": np.ones(7)},
    ),
    "sliced_wasserstein2": (
        metrics.sliced_wasserstein2,
        {"x_p": POSITIONS["first"], "x_q": POSITIONS["second"][:7]},
    ),
    "class_gaussians": (lambda: metrics.class_gaussians(PICTURES, 4), {}),
    "variance_ratios": (
        lambda x, ids: metrics.variance_ratios(PICTURES, x, ids),
        {"x": PICTURES.train, "ids": CLASSES},
    ),
    "FeatureJudge": (judged, {"x": BYTES, "ids": CLASSES}),
    "passes": (lambda: batching.passes(6, 4, 1)(0), {}),
    "pieces": (lambda: list(batching.pieces(6, 4)), {}),
    "from_unit": (data.from_unit, {"values": PICTURES.train}),
    "to_unit": (data.to_unit, {"images": BYTES}),
    "Codec": (
        lambda x: images.Codec(x.shape[1:]).decode(images.Codec(x.shape[1:]).encode(x)),
        {"x": PICTURES.train},
    ),
    "first_of_classes": (
        lambda ids: images.first_of_classes(ids, 6, 2, 2),
        {"ids": CLASSES},
    ),
    "mosaic": (images.mosaic, {"images": BYTES.reshape(2, 3, 4, 4, 1)}),
    "check_classes": (
        lambda ids: labels.check_classes("here", {"train": ids}, 2),
        {"ids": CLASSES},
    ),
    "integer_labels": (labels.integer_labels, {"origin": "here", "labels": CLASSES}),
    "joined": (raw.joined, {"parts": [BYTES, BYTES]}),
    "shape_of": (raw.shape_of, {"examples": BYTES}),
    "taken": (raw.taken, {"examples": BYTES, "index": np.array([1, 0])}),
    "as_levels": (
        values.as_levels,
        {"origin": "here", "arrays": {"train": BYTES}, "levels": None},
    ),
    "byte_levels": (lambda x: values.byte_levels("here", x), {"x": BYTES}),
    "held_out": (splits.held_out, {"examples": BYTES, "labels": CLASSES}),
    "frontier_gain": (
        frontier.frontier_gain,
        dict.fromkeys(("cost", "value", "other_cost", "other_value"), np.arange(3.0)),
    ),
    "samples_of": (lambda: generalization.samples_of(3, 2), {}),
    "boolean_inputs": (lambda: boolean.boolean_inputs(2), {}),
    "corrected_covariance": (
        lambda covariance, noise: stationary.corrected_covariance(
            covariance, 0.1, noise
        ),
        {"covariance": np.eye(2), "noise": np.eye(2)},
    ),
    "modular": (arithmetic.modular, {}),
    "sums": (lambda: arithmetic.sums(1), {}),
    "mistaken": (
        lambda answers: arithmetic.mistaken(answers, 2, 0.5, RNG),
        {"answers": CLASSES[:, None]},
    ),
    "longest_carry": (arithmetic.longest_carry, {"questions": np.ones((3, 4), int)}),
    "shrunk": (lambda x: images.shrunk(x, 2), {"x": BYTES}),
    "frontier": (
        compute_optimal.frontier,
        {
            "compute": np.arange(1.0, 6.0)[:, None] * np.geomspace(1, 9, 4),
            "loss": 1 + np.abs(np.arange(5.0)[:, None] - np.arange(4) - 0.5),
            "size": np.arange(1.0, 6.0),
        },
    ),
    "power_law": (
        scaling.power_law,
        {"x": np.arange(1.0, 8), "loss": 1 + RNG.random((2, 7))},
    ),
    "local_exponents": (
        lambda x, loss: scaling.local_exponents(x, loss, 0.5),
        {"x": np.arange(1.0, 6), "loss": np.ones((3, 5))},
    ),
    "information_gain": (
        scaling.information_gain,
        dict.fromkeys(("blank", "captioned", "text"), np.ones(3)),
    ),
    "position_information": (
        lambda gap, exponent: scaling.position_information(gap, exponent, 3),
        dict.fromkeys(("gap", "exponent"), np.ones(2)),
    ),
    "optimal_size": (
        lambda compute: compute_optimal.optimal_size(compute, (2.0, 0.5), (1.0, 0.3)),
        {"compute": np.ones(3)},
    ),
    "training_flops": (
        compute_optimal.training_flops,
        dict.fromkeys(("size", "tokens"), np.ones(3)),
    ),
    "zipf_contexts": (lambda: sources.zipf_contexts(RNG, 0.5, 9, 3), {}),
    "windows": (
        lambda: text.windows(iter(["abcd", "ab"]), lambda t: [*t.encode()], 0, 6, 3),
        {},
    ),
}
