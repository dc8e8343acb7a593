"""The images and the networks of the f-distill experiment (`f_distill.py`)."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, Literal

import jax
import numpy as np
from flax import nnx

from kljax.data import load
from kljax.errors import DataError
from kljax.models import edm
from kljax.models.discriminator import Discriminator
from kljax.models.dit import DiT
from kljax.models.functional import PureModule, functional, parameter_count
from kljax.models.mlp import MLPDenoiser
from kljax.models.unet import UNet
from kljax.typing import Array, Float, Int, Key, PyTree

DENOISERS = {"mlp": "MLP on flattened pixels", "unet": "U-Net", "dit": "DiT"}


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The denoiser; zeros and empty tuples are filled in from the images' size."""

    kind: Literal["auto", "mlp", "unet", "dit"] = "auto"
    """auto: an MLP on flattened pixels on a CPU, else a U-Net from 16 pixels on."""
    width: int = 0
    """Units (MLP, DiT) or channels of the first level (U-Net)."""
    depth: int = 0
    """Blocks (MLP, DiT) or blocks per level (U-Net)."""
    multipliers: tuple[int, ...] = ()
    """U-Net: channel multiplier of each level."""
    attention: tuple[int, ...] | None = None
    """U-Net: resolutions with attention; None means those of 16 pixels or less."""


@dataclasses.dataclass(frozen=True)
class Pictures:
    """The images in [-1, 1] and what is known about them."""

    train: Float[np.ndarray, "n h w c"]
    held_out: Float[np.ndarray, "m h w c"]
    train_ids: Int[np.ndarray, "n"] | None
    held_out_ids: Int[np.ndarray, "m"] | None
    num_classes: int
    levels: int
    manifest: dict[str, Any]

    @property
    def shape(self) -> tuple[int, ...]:
        return self.train.shape[1:]

    @property
    def sigma_data(self) -> float:
        return float(self.train.std())

    def batches(self, size: int, *stream: int) -> Callable[[int], dict[str, Any]]:
        """`batch(n)`, a function of the stream's numbers and n alone."""

        def batch(n: int) -> dict[str, Any]:
            rng = np.random.default_rng([*stream, n])
            rows = rng.integers(len(self.train), size=size)
            out = {"x": self.train[rows]}
            if self.train_ids is not None:
                out["ids"] = self.train_ids[rows]
            return out

        return batch

    def sample_ids(self, count: int) -> Int[np.ndarray, "n"] | None:
        """Classes of generated images, with the training images' frequencies."""
        if self.train_ids is None:
            return None
        order = np.random.default_rng(0).permutation(len(self.train_ids))
        return np.resize(self.train_ids[order], count)


def load_pictures(data: Any) -> Pictures:
    """Both splits, scaled to [-1, 1]."""
    parts = [
        load(data.name, split, root=data.root, path=data.path, fetch=data.fetch)
        for split in ("train", "test")
    ]
    train, held_out = parts
    if len(train) < 64 or len(held_out) < 8:
        raise DataError(
            f"{data.path or data.name}: {len(train)} training and {len(held_out)} "
            "held-out images are too few to train and judge a generator. Remedy: "
            "bring at least 64 and 8"
        )
    labelled = train.labels is not None and train.num_classes > 0
    return Pictures(
        train=train.scaled(),
        held_out=held_out.scaled(),
        train_ids=train.labels if labelled else None,
        held_out_ids=held_out.labels if labelled else None,
        num_classes=train.num_classes if labelled else 0,
        levels=train.levels,
        manifest=dict(train.manifest),
    )


@dataclasses.dataclass(frozen=True)
class Networks:
    """The denoiser and the critic's head as pure functions of their parameters."""

    denoiser: PureModule
    head: PureModule
    sigma_data: float
    start_sigma: float
    initial: Callable[[Array], dict[str, PyTree]]
    description: str
    parameters: int
    teacher_batch: int
    student_batch: int

    def denoise(
        self,
        params: PyTree,
        x: Array,
        sigma: Array | float,
        ids: Array | None,
        *,
        features: bool = False,
    ) -> Any:
        """D(x, sigma, class); with the network's features where asked."""
        return edm.precondition(
            lambda scaled, label: self.denoiser(
                params, scaled, label, ids, features=features
            ),
            x,
            sigma,
            sigma_data=self.sigma_data,
        )

    def generate(self, params: PyTree, z: Array, ids: Array | None) -> Array:
        """One evaluation: G(z, c) = D(s z, s, c)."""
        return self.denoise(params, self.start_sigma * z, self.start_sigma, ids)

    def logits(
        self, head: PyTree, features: tuple, sigma: Array, ids: Array | None
    ) -> Array:
        """What the critic says of noised images: large means real."""
        label = edm.coefficients(sigma, self.sigma_data).noise_label
        return self.head(head, features, label, ids)


def builder(
    kind: str, model: ModelConfig, pictures: Pictures
) -> tuple[int, int, Callable[[nnx.Rngs], MLPDenoiser | UNet | DiT]]:
    """Width, depth and constructor of a denoiser for these images."""
    size, _, channels = pictures.shape
    classes, dims = pictures.num_classes, math.prod(pictures.shape)
    small = dims <= 256
    width, depth = {
        "mlp": (256 if small else 512, 3),
        "unet": (64, 2),
        "dit": (128, 4),
    }[kind]
    width, depth = model.width or width, model.depth or depth

    def build(rngs: nnx.Rngs) -> MLPDenoiser | UNet | DiT:
        if kind == "mlp":
            return MLPDenoiser(dims, classes, width=width, depth=depth, rngs=rngs)
        if kind == "dit":
            shape = {"patch": 2 if size <= 16 else 4, "width": width, "depth": depth}
            return DiT(size, channels, classes, **shape, rngs=rngs)
        return UNet(
            size,
            channels,
            classes,
            width=width,
            multipliers=model.multipliers or None,
            blocks=depth,
            attention=model.attention,
            rngs=rngs,
        )

    return width, depth, build


def build_networks(
    model: ModelConfig,
    pictures: Pictures,
    teacher_batch: int,
    student_batch: int,
    start_sigma: float,
) -> Networks:
    """The denoiser that the configuration asks for, or the one that fits the size."""
    size, classes = pictures.shape[0], pictures.num_classes
    on_cpu = jax.default_backend() == "cpu"
    kind = model.kind
    if kind == "auto":
        kind = "mlp" if on_cpu or size < 16 else "unet"
    width, depth, build = builder(kind, model, pictures)

    def head_of(shapes: tuple) -> Callable[[nnx.Rngs], nnx.Module]:
        return lambda rngs: Discriminator(shapes, classes, rngs=rngs)

    shapes = []
    jax.eval_shape(lambda: shapes.append(build(nnx.Rngs(0)).feature_shapes))
    denoiser, example = functional(build, jax.random.key(0))
    head, _ = functional(head_of(shapes[0]), jax.random.key(0))
    count = parameter_count(example)

    def initial(key: Key[Array, ""]) -> dict[str, PyTree]:
        keys = jax.random.split(key)
        return {
            "denoiser": functional(build, keys[0])[1],
            "critic": functional(head_of(shapes[0]), keys[1])[1],
        }

    batch = 256 if count < 2e6 or not on_cpu else 128 if count < 6e6 else 64
    chosen = "chosen" if model.kind == "auto" else "asked for"
    return Networks(
        denoiser=denoiser,
        head=head,
        sigma_data=pictures.sigma_data,
        start_sigma=start_sigma or (1.0 if size <= 16 else 2.5),
        initial=initial,
        description=(
            f"{DENOISERS[kind]}, width {width}, depth {depth}, {count / 1e6:.2f} M "
            f"parameters ({chosen}, on {jax.default_backend()})"
        ),
        parameters=count,
        teacher_batch=teacher_batch or batch,
        student_batch=student_batch or batch,
    )
