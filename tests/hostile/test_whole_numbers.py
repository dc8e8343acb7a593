"""Arguments that are counts: what is no whole number, or too small, is named."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from kljax import training
from kljax.arguments import text
from kljax.data import dataset
from kljax.data.batching import passes
from kljax.decoding import Decoding, Fusion, Sampling
from kljax.decoding.fusion import grid_weights
from kljax.divergences import (
    Logits,
    divergence,
    entropy,
    samples,
    top_outcomes,
    transport,
)
from kljax.metrics import calibration, images, sliced
from kljax.models.embedding import ConditionEmbedding
from kljax.models.files.tokenizer import Tokenizer
from kljax.models.language import lora
from kljax.models.language.cache import Cache
from kljax.models.language.configuration import TransformerConfig
from kljax.models.language.rope import Rope
from kljax.models.language.stacking import stack_layers
from kljax.models.mlp import MLPDenoiser
from kljax.models.vision.classifier import ConvClassifier
from kljax.models.vision.dit import DiT
from kljax.models.vision.edm import karras_sigmas
from kljax.models.vision.unet import UNet
from kljax.objectives.diffusion import karras_sigma
from kljax.objectives.ratio import RatioBins
from kljax.theory.mixtures import GaussianMixture

X = np.random.default_rng(0).normal(size=(12, 2)).astype(np.float32)
Z = jnp.asarray(X[:3])
ONE = np.full(2, 0.5, np.float32)
COST = np.eye(2, dtype=np.float32)
SIZES = {"vocab_size": 9, "width": 8, "depth": 1, "heads": 2}


def player(**fields):
    return training.Player("a", lambda w, **_: None, optax.sgd(0.1), **fields)


def image_model(kind, *first, **fields):
    return kind(*first, rngs=nnx.Rngs(0), **fields)


# Argument and where: a call with it.
COUNTS = {
    "k of top_outcomes": lambda n: top_outcomes(Logits(Z), n),
    "chunk_size of top_outcomes": lambda n: top_outcomes(Logits(Z), 1, chunk_size=n),
    "k of knn_kl": lambda n: samples.knn_kl(X, X[:5], n),
    "k of precision_recall": lambda n: images.precision_recall(X, X, k=n),
    "iterations of sinkhorn": lambda n: transport.sinkhorn(
        ONE, ONE, COST, 1.0, iterations=n
    ),
    "iterations of Fusion": lambda n: Fusion(iterations=n),
    "bins of reliability": lambda n: calibration.reliability(ONE, ONE, bins=n),
    "bins of RatioBins": lambda n: RatioBins.init(n, sigma_min=0.1, sigma_max=1.0),
    "directions of sliced": lambda n: sliced.sliced_wasserstein2(X, X, directions=n),
    "levels of to_unit": lambda n: dataset.to_unit(np.zeros(2, np.uint8), n),
    "levels of from_unit": lambda n: dataset.from_unit(np.zeros(2), n),
    "levels of karras_sigma": lambda n: karras_sigma(
        jax.random.key(0), (2,), levels=n, skip=(0, 0)
    ),
    "size of passes": lambda n: passes(5, n, 0),
    "count of passes": lambda n: passes(n, 1, 0),
    "points of grid_weights": lambda n: grid_weights(Z, Z, Z[:, None], points=n),
    "max_new_tokens of Decoding": lambda n: Decoding(n),
    "top_k of Sampling": lambda n: Sampling(top_k=n),
    "steps of warmup_cosine": lambda n: training.warmup_cosine(1.0, n),
    "repeats of Player": lambda n: player(repeats=n),
    "accumulate of make_step": lambda n: training.make_step([player()], accumulate=n),
    "steps of fit": lambda n: training.fit(None, None, None, steps=n),
    "every.log of Every": lambda n: training.Every(log=n),
    "keep of Checkpoints": lambda n: training.Checkpoints("nowhere", keep=n),
    "fsdp of model_mesh": lambda n: training.model_mesh(fsdp=n),
    "tensor of model_mesh": lambda n: training.model_mesh(tensor=n),
    "period of stack_layers": lambda n: stack_layers({"layers": {0: {}}}, n),
    "rank of init_adapter": lambda n: lora.init_adapter(
        jax.random.key(0), {"layers": {}}, n
    ),
    "modes of ring": lambda n: GaussianMixture.ring(n),
    "n of karras_sigmas": lambda n: karras_sigmas(n),
    "size of UNet": lambda n: image_model(UNet, n, 1),
    "channels of UNet": lambda n: image_model(UNet, 8, n),
    "blocks of UNet": lambda n: image_model(UNet, 8, 1, blocks=n),
    "patch of DiT": lambda n: image_model(DiT, 8, 1, patch=n),
    "depth of DiT": lambda n: image_model(DiT, 8, 1, depth=n),
    "width of MLPDenoiser": lambda n: image_model(MLPDenoiser, 2, width=n),
    "num_classes of ConvClassifier": lambda n: image_model(ConvClassifier, 8, 1, n),
    "slots of Cache": lambda n: Cache.empty(1, (1, 1, n, 2)),
    "batch of Cache": lambda n: Cache.empty(1, (n, 1, 1, 2)),
    "original_length of Rope": lambda n: Rope(original_length=n),
    **{
        f"{name} of TransformerConfig": lambda n, name=name: TransformerConfig(
            **{**SIZES, name: n}
        )
        for name in (*SIZES, "kv_heads", "hidden", "max_length", "window")
    },
}
NONE_IS_ONE = ("top_k", "kv_heads", "hidden", "window")
"""Where None has a meaning."""


@pytest.mark.parametrize("case", COUNTS)
def test_counts_are_whole_numbers(case):
    name, call = case.split(" of ")[0], COUNTS[case]
    for wrong in (
        True,
        np.True_,
        2.0,
        2.5,
        "2",
        [2],
        *(() if name in NONE_IS_ONE else (None,)),
    ):
        with pytest.raises(TypeError, match=f"^{name} must be an int, got"):
            call(wrong)
    with pytest.raises(ValueError, match=f"{name} (must be at least|is 0)"):
        call(0)


def test_some_counts_may_be_zero():
    for wrong in (True, 1.0, None):
        with pytest.raises(TypeError, match=r"^num_classes must be an int, got"):
            ConditionEmbedding(8, wrong, rngs=nnx.Rngs(0))
        with pytest.raises(TypeError, match=r"^experts must be an int, got"):
            TransformerConfig(**SIZES, experts=wrong)
    with pytest.raises(ValueError, match=r"^num_classes must be at least 0, got -1"):
        ConditionEmbedding(8, -1, rngs=nnx.Rngs(0))


def test_an_axis_is_a_whole_number():
    for wrong in (1.5, 1.0, True, None, "0", (0, 1)):
        with pytest.raises(TypeError, match=r"^axis must be an int, got"):
            divergence(Z, Z, "forward_kl", axis=wrong)
        with pytest.raises(TypeError, match=r"^axis must be an int, got"):
            entropy(Z, axis=wrong)
    np.testing.assert_array_equal(entropy(Z, axis=np.int64(1)), entropy(Z))


def test_the_length_of_rows_is_a_whole_number():
    for wrong in (True, 2.0, "2"):
        with pytest.raises(TypeError, match=r"^length must be an int, got"):
            Tokenizer(None).rows(["a"], length=wrong)


def test_a_width_is_a_number():
    calls = {
        "bandwidth": (
            lambda h: samples.kde_log_density(X, X, h),
            lambda h: samples.mmd(X, X, h),
            lambda h: samples.cauchy_schwarz(X, X, h),
        ),
        "epsilon": (lambda e: transport.sinkhorn(ONE, ONE, COST, e, iterations=1),),
    }
    for name, functions in calls.items():
        for call in functions:
            for wrong in ("0.1", "a", None, True, [None], 1j, np.array("z")):
                with pytest.raises(TypeError, match=f"^{name} must be real numbers"):
                    call(wrong)
            with pytest.raises(ValueError, match=f"^{name} must be positive"):
                call(0)


def test_a_stage_is_text():
    for wrong in (3, None, b"train", True):
        with pytest.raises(TypeError, match=r"^stage must be text, got"):
            training.fit(None, None, None, steps=1, stage=wrong)
    with pytest.raises(ValueError, match=r"^stage must not be empty"):
        training.fit(None, None, None, steps=1, stage="")
    assert text("stage", "train") == "train"
