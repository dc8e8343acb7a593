"""The players of the ring experiment (`f_distill_ring.py`), and how they are judged.

The teacher's score is exact (a mixture of Gaussians); student, fake score and critic
are small MLPs. A population of students with different divergences is one `vmap` of
one training step: the divergence is data. Equation numbers are those of
`kljax.objectives.diffusion`.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from kljax import generators
from kljax.metrics import sliced_wasserstein2
from kljax.models.functional import PureModule, functional
from kljax.models.mlp import MLPDenoiser
from kljax.models.vision import edm
from kljax.models.vision.discriminator import Discriminator
from kljax.objectives import diffusion
from kljax.theory.mixtures import GaussianMixture
from kljax.training import Loss, Player, TrainState, adam, init_state, stacked
from kljax.typing import Array, Float, Key, PyTree

FAMILY = tuple(n for n in generators.names() if n not in ("total_variation", "alpha"))
"""Strictly convex built-ins without a free parameter; alpha has its own sweep."""


@dataclasses.dataclass(frozen=True)
class RingConfig:
    modes: int = 8
    radius: float = 1.0
    std: float = 0.08

    def law(self) -> GaussianMixture:
        return GaussianMixture.ring(self.modes, radius=self.radius, std=self.std)

    @property
    def sigma_data(self) -> float:
        return (self.radius**2 / 2 + self.std**2) ** 0.5


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    width: int = 64
    depth: int = 3
    """Residual blocks, two dense layers each."""
    embedding: int = 32
    pretraining_steps: int = 2500
    steps: int = 1000
    """Student steps."""
    critic_steps: int = 5
    """Paper, table 5: 5 (10 for SD v1.5)."""
    batch: int = 512
    sigma_min: float = 0.02
    sigma_max: float = 5.0
    start_sigma: float = 1.0
    """G(z) = D(s z, s); the paper's code starts at the highest level."""
    gan_weight: float = 3e-3
    """Paper, table 5: 1e-3 (CIFAR-10, SD v1.5), 3e-3 (ImageNet-64)."""
    bins: int = 10
    bin_decay: float = 0.9
    critic_rate: float = 1e-3
    student_rate: float = 1e-3
    final_rate: float = 0.05
    """The student's rate falls by a cosine to this share of it."""
    b1: float = 0.5
    """Depth and b1 were chosen on two students of seed 0 alone."""
    b2: float = 0.99
    clip: float = 10.0
    ema: float = 0.99
    ess_target: float = 0.8
    """Effective fraction of the weights at which the adaptive alpha settles."""
    ess_gain: float = 0.02


@dataclasses.dataclass(frozen=True)
class Member:
    """One student of a population: a named divergence, a fixed or adaptive alpha."""

    label: str
    name: str = "alpha"
    alpha: float = 0.0
    adaptive: bool = False


@dataclasses.dataclass(frozen=True)
class Networks:
    """Denoiser and critic as pure functions of their parameters."""

    denoiser: PureModule
    body: PureModule
    head: PureModule
    sigma_data: float

    @classmethod
    def build(
        cls, config: TrainingConfig, sigma_data: float, key: Key[Array, ""]
    ) -> tuple["Networks", dict[str, PyTree]]:
        """The functions, and initial parameters of denoiser and critic."""
        shape: Any = {
            "width": config.width,
            "depth": config.depth,
            "embedding": config.embedding,
        }
        shapes = ((config.width,),) * config.depth
        keys = jax.random.split(key, 3)
        mlp = lambda rngs: MLPDenoiser(2, **shape, rngs=rngs)  # noqa: E731
        denoiser, params = functional(mlp, keys[0])
        body, critic = functional(mlp, keys[1])
        head, top = functional(
            lambda rngs: Discriminator(shapes, width=64, rngs=rngs), keys[2]
        )
        nets = cls(denoiser, body, head, sigma_data)
        return nets, {"denoiser": params, "critic": {"body": critic, "head": top}}

    def denoise(self, params: PyTree, x: Array, sigma: Array | float) -> Array:
        """D(x, sigma)."""
        return edm.precondition(
            lambda scaled, label: self.denoiser(params, scaled, label),
            x,
            sigma,
            sigma_data=self.sigma_data,
        )

    def logits(self, params: PyTree, x: Array, sigma: Array) -> Array:
        """What the critic says of noised points: large means real."""
        c = edm.coefficients(sigma, self.sigma_data)
        scaled = c.scale_in[:, None] * x
        _, features = self.body(params["body"], scaled, c.noise_label, features=True)
        return self.head(params["head"], features, c.noise_label)


def optimizer(config: TrainingConfig, rate: Any) -> optax.GradientTransformation:
    """Clipped Adam on one flat vector."""
    return adam(rate, clip=config.clip, b1=config.b1, b2=config.b2, flat=True)


class Game:
    """The losses of all players on one target law.

    Each loss draws its noise in two calls; compiling a random number generator costs
    more than the networks do.
    """

    def __init__(self, nets: Networks, config: TrainingConfig, law: GaussianMixture):
        self.nets, self.config, self.law = nets, config, law

    def draws(self, key: Array, sides: int = 1) -> tuple[Array, Array, Array, Array]:
        """Latents, noises and levels (Eq. 15) of `sides` batches, and a free key."""
        keys, count = jax.random.split(key, 3), sides * self.config.batch
        latent, noise = jax.random.normal(keys[0], (2, count, 2))
        low, high = self.config.sigma_min, self.config.sigma_max
        sigma = diffusion.karras_sigma(keys[1], (count,), low=low, high=high)
        return latent, noise, sigma, keys[2]

    def generate(self, params: PyTree, z: Array) -> Array:
        """One evaluation: G(z) = D(s z, s)."""
        s = self.config.start_sigma
        return self.nets.denoise(params, s * z, s)

    def denoising(self, params: PyTree, x: Array, noise: Array, sigma: Array) -> Loss:
        """Eq. 12."""
        denoised = self.nets.denoise(params, x + sigma[:, None] * noise, sigma)
        return Loss(
            *diffusion.denoising_loss(
                denoised, x, sigma, sigma_data=self.nets.sigma_data
            )
        )

    def pretraining(self, params, *, state, frozen, batch, key):
        """Denoising score matching on the target: the students' initial network."""
        _, noise, sigma, key = self.draws(key)
        return self.denoising(params, self.law.sample(key, len(noise)), noise, sigma)

    def fake_score(self, params, *, state, frozen, batch, key):
        """The same on fresh samples of the student."""
        z, noise, sigma, _ = self.draws(key)
        x = self.generate(state.params["student"], z)
        return self.denoising(params, x, noise, sigma)

    def discrimination(
        self, params: PyTree, real: Array, fake: Array, noise: Array, sigma: Array
    ) -> Loss:
        """Eq. 7 with independent noise levels for real and fake points."""
        x = jnp.concatenate([real, fake]) + sigma[:, None] * noise
        on_real, on_fake = jnp.split(self.nets.logits(params, x, sigma), 2)
        return Loss(*diffusion.discriminator_loss(on_real, on_fake))

    def critic(self, params, *, state, frozen, batch, key):
        """The discriminator of noised data and noised samples."""
        z, noise, sigma, key = self.draws(key, sides=2)
        fake = self.generate(state.params["student"], z[: self.config.batch])
        real = self.law.sample(key, self.config.batch)
        return self.discrimination(params, real, fake, noise, sigma)

    def student(self, params, *, state, frozen, batch, key):
        """Eqs. 5-11; an adaptive member takes its alpha from the state."""
        z, noise, sigma, _ = self.draws(key)
        x = self.generate(params, z)
        noisy = x + sigma[:, None] * noise
        controller = state.aux["controller"]
        alpha = jnp.where(frozen["adaptive"], controller.alpha, frozen["alpha"])
        options = (*map(generators.get, FAMILY), generators.Alpha(alpha))
        out = diffusion.generator_loss(
            x,
            self.nets.denoise(state.params["fake_score"], noisy, sigma),
            self.law.denoise(noisy, sigma),
            sigma,
            divergence=generators.Choice(frozen["index"], options),
            logits=self.nets.logits(state.params["critic"], noisy, sigma),
            bins=state.aux["bins"],
            decay=self.config.bin_decay,
            gan_weight=self.config.gan_weight,
        )
        moved = diffusion.adapt_alpha(
            controller,
            out.metrics["weight/ess"],
            target=self.config.ess_target,
            gain=self.config.ess_gain,
        )
        aux = {"bins": out.bins, "controller": moved}
        return Loss(out.per_example, {**out.metrics, "alpha": alpha}, aux=aux)

    def players(self) -> list[Player]:
        """Fake score, critic, student, in this order."""
        critics = optimizer(self.config, self.config.critic_rate)
        repeats = self.config.critic_steps
        rate = optax.cosine_decay_schedule(
            self.config.student_rate, self.config.steps, self.config.final_rate
        )
        return [
            Player("fake_score", self.fake_score, critics, repeats),
            Player("critic", self.critic, critics, repeats),
            Player(
                "student",
                self.student,
                optimizer(self.config, rate),
                ema_decay=self.config.ema,
            ),
        ]


def population(
    game: Game,
    members: Sequence[Member],
    seeds: Sequence[int],
    denoisers: Sequence[PyTree],
    critics: Sequence[PyTree],
) -> tuple[TrainState, dict[str, Array]]:
    """States and frozen inputs, leading axis seed by member.

    Members of one seed share the key, hence all noise, and the initial networks.
    """
    config, states = game.config, []
    for seed, denoiser, critic in zip(seeds, denoisers, critics, strict=True):
        aux = {
            "bins": diffusion.RatioBins.init(
                config.bins, sigma_min=config.sigma_min, sigma_max=config.sigma_max
            ),
            "controller": diffusion.AlphaController.init(),
        }
        params = {"student": denoiser, "fake_score": denoiser, "critic": critic}
        key = jax.random.fold_in(jax.random.key(seed), 3)
        states += [init_state(key, params, game.players(), aux=aux)] * len(members)
    names = (*FAMILY, "alpha")
    repeats = len(states) // len(members)
    frozen = {
        "index": jnp.asarray([names.index(m.name) for m in members] * repeats),
        "alpha": jnp.asarray([m.alpha for m in members] * repeats, jnp.float32),
        "adaptive": jnp.asarray([m.adaptive for m in members] * repeats),
    }
    return stacked(states), frozen


def judged(
    x: Float[np.ndarray, "n 2"],
    reference: Float[np.ndarray, "n 2"],
    law: GaussianMixture,
) -> dict[str, float]:
    """Modes hit, total variation of their frequencies, sliced W2, share near a mode."""
    mode, distance = (np.asarray(v) for v in law.nearest(jnp.asarray(x)))
    modes = len(law.std)
    share = np.bincount(mode, minlength=modes) / len(mode)
    held = np.bincount(mode[distance < 4], minlength=modes) / len(mode)
    return {
        # A mode is hit when a fifth of its due share lies within 4 std of it.
        "modes": int((held > 0.2 / modes).sum()),
        "tv": float(0.5 * np.abs(share - 1 / modes).sum()),
        "sliced_w2": sliced_wasserstein2(x, reference),
        "near": float((distance < 4).mean()),
        "core": float((distance < 2).mean()),
    }
