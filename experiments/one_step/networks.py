"""The networks of the f-distill experiment (`f_distill.py`)."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, Literal

import jax
from flax import nnx

from kljax.data.images import Codec, Pictures
from kljax.models.functional import PureModule, parameter_count, pure
from kljax.models.mlp import MLPDenoiser
from kljax.models.vision import edm
from kljax.models.vision.discriminator import Discriminator
from kljax.models.vision.dit import DiT
from kljax.models.vision.unet import UNet
from kljax.typing import Array, Key, PyTree

DENOISERS = {
    "mlp": "MLP on flattened pixels",
    "pca": "MLP on principal components",
    "unet": "U-Net",
    "dit": "DiT",
}


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The denoiser; zeros and empty tuples are filled in from the images' size."""

    kind: Literal["auto", "mlp", "pca", "unet", "dit"] = "auto"
    """auto: up to 256 numbers per image an MLP on the flattened pixels, above on a CPU
    an MLP on their principal components, on other machines a U-Net."""
    width: int = 0
    """Units (MLP, DiT) or channels of the first level (U-Net)."""
    depth: int = 0
    """Blocks (MLP, DiT) or blocks per level (U-Net)."""
    multipliers: tuple[int, ...] = ()
    """U-Net: channel multiplier of each level."""
    attention: tuple[int, ...] | None = None
    """U-Net: resolutions with attention; None means those of 16 pixels or less."""


@dataclasses.dataclass(frozen=True)
class Networks:
    """The denoiser and the critic's head as pure functions of their parameters."""

    denoiser: PureModule
    head: PureModule
    codec: Codec
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


def chosen_kind(model: ModelConfig, pictures: Pictures) -> str:
    """The kind of denoiser: the one asked for, or the one that fits the images."""
    if model.kind != "auto":
        return model.kind
    if math.prod(pictures.shape) <= 256:
        return "mlp"
    return "pca" if jax.default_backend() == "cpu" else "unet"


def builder(
    kind: str, model: ModelConfig, pictures: Pictures, dims: int
) -> tuple[int, int, Callable[[nnx.Rngs], MLPDenoiser | UNet | DiT]]:
    """Width, depth and constructor of a denoiser for these images."""
    size, _, channels = pictures.shape
    classes = pictures.num_classes
    mlp = (256 if dims <= 128 else 512, 3)
    width, depth = {"mlp": mlp, "pca": mlp, "unet": (64, 2), "dit": (128, 4)}[kind]
    width, depth = model.width or width, model.depth or depth

    def build(rngs: nnx.Rngs) -> MLPDenoiser | UNet | DiT:
        if kind in ("mlp", "pca"):
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
    classes = pictures.num_classes
    on_cpu, kind = jax.default_backend() == "cpu", chosen_kind(model, pictures)
    codec, title = Codec(pictures.shape), DENOISERS[kind]
    if kind == "pca":
        codec = Codec.components(pictures.train)
        title = f"MLP on {codec.size} principal components ({codec.kept:.1%} kept)"
    codes = codec.encode(pictures.train)
    width, depth, build = builder(kind, model, pictures, math.prod(codes.shape[1:]))

    shapes = []
    jax.eval_shape(lambda: shapes.append(build(nnx.Rngs(0)).feature_shapes))
    denoiser, draw_denoiser = pure(build)
    head, draw_head = pure(lambda rngs: Discriminator(shapes[0], classes, rngs=rngs))
    count = parameter_count(jax.eval_shape(draw_denoiser, jax.random.key(0)))

    @jax.jit
    def initial(key: Key[Array, ""]) -> dict[str, PyTree]:
        keys = jax.random.split(key)
        return {"denoiser": draw_denoiser(keys[0]), "critic": draw_head(keys[1])}

    batch = 256 if count < 2e6 or not on_cpu else 128 if count < 6e6 else 64
    chosen = "chosen" if model.kind == "auto" else "asked for"
    return Networks(
        denoiser=denoiser,
        head=head,
        codec=codec,
        sigma_data=float(codes.std()),
        start_sigma=start_sigma or (1.0 if codes[0].size <= 256 else 2.5),
        initial=initial,
        description=(
            f"{title}, width {width}, depth {depth}, {count / 1e6:.2f} M "
            f"parameters ({chosen}, on {jax.default_backend()})"
        ),
        parameters=count,
        teacher_batch=teacher_batch or batch,
        student_batch=student_batch or batch,
    )
