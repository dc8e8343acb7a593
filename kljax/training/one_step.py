"""One-step distillation of a diffusion model: a game of three players.

The *fake score* follows the student's law by denoising its samples, the *critic* tells
noised data from noised samples, and the *student*, a generator of one evaluation, moves
by the weighted difference of the two scores. Networks, data and noise are functions
that are passed; the divergence may be traced, so that students with different ones are
one `vmap` of one step. Equation numbers: `kljax.objectives.diffusion`.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from kljax import generators
from kljax.generators import FDivergence
from kljax.objectives import diffusion
from kljax.training.optimizers import adam
from kljax.training.players import Loss, Player
from kljax.training.start import init_state
from kljax.training.state import TrainState
from kljax.typing import Array, Float, Key, PyTree

__all__ = ["Draws", "OneStep", "OneStepConfig", "noised"]

NEAR = 0.1
"""Size of the perturbation in the critic's slope penalty."""


class Draws(NamedTuple):
    """What a loss draws: latents, and noise for one batch or for two (fake, real)."""

    latent: Float[Array, "b *event"]
    noise: Float[Array, "sides*b *event"]
    sigma: Float[Array, "sides*b"]
    key: Key[Array, ""]
    """For what else is random."""


def noised(
    x: Float[Array, "b *event"], noise: Float[Array, "b *event"], sigma: Array
) -> Float[Array, "b *event"]:
    """``x + sigma noise``, a noise level per example."""
    return x + sigma.reshape(-1, *[1] * (x.ndim - 1)) * noise


@dataclasses.dataclass(frozen=True)
class OneStepConfig:
    """How long, how fast, and at which noise the three players learn."""

    steps: int = 1500
    """Of the student."""
    batch: int = 256
    start_sigma: float = 1.0
    """G(z) = D(s z, s)."""
    gan_weight: float = 3e-3
    """Of the game's term in the student's loss, Eq. 11."""
    critic_steps: int = 1
    """Steps of fake score and critic before one of the student."""
    learning_rate: float = 1e-3
    final_rate: float = 0.05
    """The student's rate falls by a cosine to this share of it."""
    critic_rate: float = 1e-3
    """Of fake score and critic."""
    b1: float = 0.0
    b2: float = 0.99
    weight_decay: float = 0.0
    clip: float = 10.0
    ema: float = 0.99
    noise: Literal["log_uniform", "karras"] = "log_uniform"
    sigma_min: float = 0.05
    sigma_max: float = 5.0
    bins: int = 10
    bin_decay: float = 0.9
    """Of the ratio's mean by noise level, Eq. 9."""
    ratio_clip: tuple[float, float] = (0.1, 20.0)
    """Eq. 8."""
    r1_weight: float = 0.0
    """Of the critic's slope penalty, Eq. 7."""
    fake_weight: Literal["edm", "plain"] = "edm"
    """Of the fake score's regression, Eq. 12."""
    guidance: float = 1.0
    """Of the teacher, Eq. 13."""
    alpha_target: float = 0.5
    """Effective fraction of the weights at which an adaptive alpha settles."""
    alpha_gain: float = 0.01

    def adam(
        self, rate: float | optax.Schedule, *, flat: bool = False
    ) -> optax.GradientTransformation:
        """The optimizer of these settings at a learning rate."""
        betas: Any = {"b1": self.b1, "b2": self.b2, "weight_decay": self.weight_decay}
        return adam(rate, clip=self.clip, flat=flat, **betas)

    def levels(self, key: Key[Array, ""], count: int) -> Float[Array, "n"]:
        """Noise levels of critics and student, Eq. 15 or log-uniform."""
        law: Any = LEVELS[self.noise]
        return law(key, (count,), low=self.sigma_min, high=self.sigma_max)


LEVELS = {"karras": diffusion.karras_sigma, "log_uniform": diffusion.log_uniform_sigma}


@dataclasses.dataclass(frozen=True)
class OneStep:
    """The losses of the three roles "fake_score", "critic" and "student".

    `ids` are the batch's classes, or None where it has none.

    Args:
        config: its settings.
        draw: `draw(key, batch, sides) -> Draws`.
        real: `real(key, batch)`: data, as many as latents; the key is `Draws.key`.
        generate: `generate(student, latent, ids)`: samples.
        denoise: `denoise(fake_score, noisy, sigma, ids)`: the fake score's estimate.
        teach: `teach(frozen, noisy, sigma, ids)`: the (guided) teacher's estimate, and
            what the critic sees: the noisy examples, or the teacher's features of them.
        logits: `logits(critic, seen, sigma, ids)`: large means real.
        sigma_data: standard deviation of the data.
        flat: whether an optimizer sees all parameters as one vector.
    """

    config: OneStepConfig
    draw: Callable[[Array, dict[str, Array], int], Draws]
    real: Callable[[Array, dict[str, Array]], Array]
    generate: Callable[[PyTree, Array, Array | None], Array]
    denoise: Callable[[PyTree, Array, Array, Array | None], Array]
    teach: Callable[[PyTree, Array, Array, Array | None], tuple[Array, Any]]
    logits: Callable[[PyTree, Any, Array, Array | None], Array]
    sigma_data: float
    flat: bool = False

    def score_matching(
        self, params: PyTree, x: Array, draws: Draws, ids: Array | None = None
    ) -> Loss:
        """The regression of a denoiser on examples `x`, Eq. 12."""
        noisy = noised(x, draws.noise, draws.sigma)
        denoised = self.denoise(params, noisy, draws.sigma, ids)
        options: dict[str, Any] = {
            "weight": self.config.fake_weight,
            "sigma_data": self.sigma_data,
        }
        return Loss(*diffusion.denoising_loss(denoised, x, draws.sigma, **options))

    def true_score(self, params, *, state, frozen, batch, key):
        """Score matching on the data: a denoiser for a student to start as."""
        draws, ids = self.draw(key, batch, 1), batch.get("ids")
        return self.score_matching(params, self.real(draws.key, batch), draws, ids)

    def fake_score(self, params, *, state, frozen, batch, key):
        """Score matching on fresh samples of the student."""
        draws, ids = self.draw(key, batch, 1), batch.get("ids")
        x = self.generate(state.params["student"], draws.latent, ids)
        return self.score_matching(params, jax.lax.stop_gradient(x), draws, ids)

    def critic(self, params, *, state, frozen, batch, key):
        """The discriminator of noised samples and noised data, Eq. 7."""
        draws, ids = self.draw(key, batch, 2), batch.get("ids")
        fake = self.generate(state.params["student"], draws.latent, ids)
        real = self.real(draws.key, batch)
        return self.discrimination(params, fake, real, draws, frozen, ids)

    def discrimination(
        self,
        params: PyTree,
        fake: Array,
        real: Array,
        draws: Draws,
        frozen: PyTree = None,
        ids: Array | None = None,
    ) -> Loss:
        """Eq. 7 with noise levels of their own for samples and data."""
        count, sigma, r1_weight = len(real), draws.sigma, self.config.r1_weight
        noisy = noised(jnp.concatenate([fake, real]), draws.noise, sigma)
        if r1_weight:
            shift = jax.random.normal(jax.random.fold_in(draws.key, 1), real.shape)
            noisy = jnp.concatenate([noisy, noisy[count:] + NEAR * shift])
            sigma = jnp.concatenate([sigma, sigma[count:]])
        parts = len(noisy) // count
        every = None if ids is None else jnp.tile(ids, parts)
        _, seen = self.teach(frozen, noisy, sigma, every)
        seen = jax.lax.stop_gradient(seen)
        on = jnp.split(self.logits(params, seen, sigma, every), parts)
        near: dict[str, Any] = (
            {"perturbed_logits": on[2], "r1_weight": r1_weight} if r1_weight else {}
        )
        return Loss(*diffusion.discriminator_loss(on[1], on[0], **near))

    def student(
        self,
        params,
        *,
        state,
        frozen,
        batch,
        key,
        divergence: Callable[[Array], FDivergence],
        gan_weight: float | Array,
    ):
        """Eqs. 5-11; the divergence is that of the controller's alpha."""
        draws, ids = self.draw(key, batch, 1), batch.get("ids")
        x = self.generate(params, draws.latent, ids)
        noisy = noised(x, draws.noise, draws.sigma)
        real, seen = self.teach(frozen, noisy, draws.sigma, ids)
        controller = state.aux["controller"]
        out = diffusion.generator_loss(
            x,
            self.denoise(state.params["fake_score"], noisy, draws.sigma, ids),
            real,
            draws.sigma,
            divergence=divergence(controller.alpha),
            logits=self.logits(state.params["critic"], seen, draws.sigma, ids),
            bins=state.aux["bins"],
            gan_weight=gan_weight,
            clip=self.config.ratio_clip,
            decay=self.config.bin_decay,
        )
        moved = diffusion.adapt_alpha(
            controller,
            out.metrics["weight/ess"],
            target=self.config.alpha_target,
            gain=self.config.alpha_gain,
        )
        metrics = {**out.metrics, "alpha": controller.alpha}
        aux = {"bins": out.bins, "controller": moved}
        return Loss(out.per_example, metrics, aux=aux)

    def players(
        self,
        divergence: Callable[[Array], FDivergence],
        gan_weight: float | Array | None = None,
    ) -> list[Player]:
        """Fake score, critic, student, in this order.

        Args:
            divergence: of the controller's alpha, which it may ignore; may be traced.
            gan_weight: in place of the configuration's; may be traced.
        """
        config = self.config
        weight = config.gan_weight if gan_weight is None else gan_weight

        def loss(params, *, state, frozen, batch, key):
            given: Any = {"state": state, "frozen": frozen, "batch": batch, "key": key}
            own: Any = {"divergence": divergence, "gan_weight": weight}
            return self.student(params, **given, **own)

        rate = optax.cosine_decay_schedule(
            config.learning_rate, config.steps, config.final_rate
        )
        critics = config.adam(config.critic_rate, flat=self.flat)
        student = config.adam(rate, flat=self.flat)
        return [
            Player("fake_score", self.fake_score, critics, config.critic_steps),
            Player("critic", self.critic, critics, config.critic_steps),
            Player("student", loss, student, ema_decay=config.ema),
        ]

    def start(
        self, key: Key[Array, ""], denoiser: PyTree, critic: PyTree
    ) -> TrainState:
        """The first state: student and fake score begin as one denoiser."""
        config = self.config
        params = {"student": denoiser, "fake_score": denoiser, "critic": critic}
        bins = diffusion.RatioBins.init(
            config.bins, sigma_min=config.sigma_min, sigma_max=config.sigma_max
        )
        aux = {"bins": bins, "controller": diffusion.AlphaController.init()}
        # Where they start does not depend on the divergence.
        players = self.players(generators.Alpha)
        return init_state(key, params, players, aux=aux)
