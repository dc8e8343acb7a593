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
from kljax.models import edm
from kljax.models.discriminator import Discriminator
from kljax.models.functional import PureModule, functional
from kljax.models.mlp import MLPDenoiser
from kljax.objectives import diffusion
from kljax.theory.mixtures import GaussianMixture
from kljax.training import Loss, Player, TrainState, init_state
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
    width: int = 96
    depth: int = 3
    embedding: int = 32
    pretraining_steps: int = 2500
    steps: int = 1200
    """Student steps."""
    critic_steps: int = 5
    batch: int = 512
    sigma_min: float = 0.02
    sigma_max: float = 5.0
    start_sigma: float = 5.0
    """G(z) = D(s z, s)."""
    gan_weight: float = 3e-3
    """Paper, table 5: 1e-3 (CIFAR-10), 3e-3 (ImageNet-64)."""
    bins: int = 10
    bin_decay: float = 0.9
    critic_rate: float = 1e-3
    student_rate: float = 3e-4
    final_rate: float = 1.0
    """The student's rate falls by a cosine to this share of it."""
    b1: float = 0.0
    b2: float = 0.99
    clip: float = 10.0
    ema: float = 0.99
    ess_target: float = 0.5
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


def noised(key: Array, x: Array, sigma: Array) -> Array:
    """x + sigma noise, one noise level per point."""
    return x + sigma[:, None] * jax.random.normal(key, x.shape, x.dtype)


def adam(config: TrainingConfig, rate: Any) -> optax.GradientTransformation:
    return optax.chain(
        optax.clip_by_global_norm(config.clip),
        optax.adam(rate, b1=config.b1, b2=config.b2),
    )


class Game:
    """The losses of all players on one target law."""

    def __init__(self, nets: Networks, config: TrainingConfig, law: GaussianMixture):
        self.nets, self.config, self.law = nets, config, law

    def sigmas(self, key: Array) -> Array:
        low, high = self.config.sigma_min, self.config.sigma_max
        return diffusion.karras_sigma(
            key, (self.config.batch,), low=low, high=high
        )  # Eq. 15

    def generate(self, params: PyTree, z: Array) -> Array:
        """One evaluation: G(z) = D(s z, s)."""
        s = self.config.start_sigma
        return self.nets.denoise(params, s * z, s)

    def fakes(self, params: PyTree, key: Array) -> Array:
        z = jax.random.normal(key, (self.config.batch, 2))
        return self.generate(params, z)

    def denoising(self, params: PyTree, x: Array, keys: Array) -> Loss:
        sigma = self.sigmas(keys[0])
        denoised = self.nets.denoise(params, noised(keys[1], x, sigma), sigma)
        return Loss(
            *diffusion.denoising_loss(
                denoised, x, sigma, sigma_data=self.nets.sigma_data
            )
        )

    def pretraining(self, params, *, state, frozen, batch, key):
        """Denoising score matching on the target: the students' initial network."""
        keys = jax.random.split(key, 3)
        return self.denoising(
            params, self.law.sample(keys[0], self.config.batch), keys[1:]
        )

    def fake_score(self, params, *, state, frozen, batch, key):
        """Eq. 12 on fresh samples of the student."""
        keys = jax.random.split(key, 3)
        return self.denoising(
            params, self.fakes(state.params["student"], keys[0]), keys[1:]
        )

    def discrimination(
        self, params: PyTree, real: Array, fake: Array, keys: Array
    ) -> Loss:
        """Eq. 7 with independent noise levels for real and fake points."""
        sigma = jnp.concatenate([self.sigmas(keys[0]), self.sigmas(keys[1])])
        x = noised(keys[2], jnp.concatenate([real, fake]), sigma)
        on_real, on_fake = jnp.split(self.nets.logits(params, x, sigma), 2)
        return Loss(*diffusion.discriminator_loss(on_real, on_fake))

    def critic(self, params, *, state, frozen, batch, key):
        keys = jax.random.split(key, 5)
        fake = self.fakes(state.params["student"], keys[0])
        real = self.law.sample(keys[1], self.config.batch)
        return self.discrimination(params, real, fake, keys[2:])

    def student(self, params, *, state, frozen, batch, key):
        """Eqs. 5-11; an adaptive member takes its alpha from the state."""
        keys = jax.random.split(key, 3)
        x = self.fakes(params, keys[0])
        sigma = self.sigmas(keys[1])
        noisy = noised(keys[2], x, sigma)
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
        critics = adam(self.config, self.config.critic_rate)
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
                adam(self.config, rate),
                ema_decay=self.config.ema,
            ),
        ]


def stacked(trees: Sequence[PyTree]) -> PyTree:
    """Equal trees as one, with a new leading axis."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def population(
    game: Game,
    members: Sequence[Member],
    seeds: Sequence[int],
    denoisers: Sequence[PyTree],
    critics: Sequence[PyTree],
) -> tuple[TrainState, dict[str, Array]]:
    """States and frozen inputs of every member with every seed, stacked.

    Members of one seed share the key, hence all noise, and the initial networks.
    """
    config, states, frozen = game.config, [], []
    for seed, denoiser, critic in zip(seeds, denoisers, critics, strict=True):
        for member in members:
            aux = {
                "bins": diffusion.RatioBins.init(
                    config.bins, sigma_min=config.sigma_min, sigma_max=config.sigma_max
                ),
                "controller": diffusion.AlphaController.init(),
            }
            params = {"student": denoiser, "fake_score": denoiser, "critic": critic}
            key = jax.random.fold_in(jax.random.key(seed), 3)
            states.append(init_state(key, params, game.players(), aux=aux))
            names = (*FAMILY, "alpha")
            frozen.append(
                {
                    "index": jnp.asarray(names.index(member.name)),
                    "alpha": jnp.asarray(member.alpha, jnp.float32),
                    "adaptive": jnp.asarray(member.adaptive),
                }
            )
    return stacked(states), stacked(frozen)


def sliced_distance(
    x: Float[np.ndarray, "n d"], y: Float[np.ndarray, "n d"], *, directions: int = 128
) -> float:
    """Sliced 2-Wasserstein distance of two equally large samples of the plane."""
    angle = np.pi * (np.arange(directions) + 0.5) / directions
    axes = np.stack([np.cos(angle), np.sin(angle)])
    gap = np.sort(x @ axes, axis=0) - np.sort(y @ axes, axis=0)
    return float(np.sqrt(np.mean(gap**2)))


def judged(
    x: Float[np.ndarray, "n 2"],
    reference: Float[np.ndarray, "n 2"],
    law: GaussianMixture,
) -> dict[str, float]:
    """Modes hit, total variation of their frequencies, sliced W2, share near a mode."""
    mode, distance = (np.asarray(v) for v in law.nearest(jnp.asarray(x)))
    modes = len(law.std)
    share = np.bincount(mode, minlength=modes) / len(mode)
    return {
        # A mode counts as hit when it holds a fifth of its due among its own points.
        "modes": int(
            (
                np.bincount(mode[distance < 4], minlength=modes) / len(mode)
                > 0.2 / modes
            ).sum()
        ),
        "tv": float(0.5 * np.abs(share - 1 / modes).sum()),
        "sliced_w2": sliced_distance(x, reference),
        "near": float((distance < 4).mean()),
    }
