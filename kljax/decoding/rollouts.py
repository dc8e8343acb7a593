"""Completions that a policy writes to learn from, and their log-probabilities.

An objective of a policy weighs what it sampled by the ratio of two laws: the policy's
today and that of the moment of sampling. Both are laws *after* temperature and filters:
the ratio of the plain softmaxes is another number, and wrong wherever a filter acted.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from kljax.arguments import whole
from kljax.decoding.decoders import Model
from kljax.decoding.generation import generate
from kljax.decoding.sampling import Sampling, warp
from kljax.decoding.settings import Decoding
from kljax.typing import Array, ArrayLike, Bool, Float, Int, Key, PyTree

__all__ = ["Rollouts", "log_probs", "roll_out", "token_logits"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Rollouts:
    """`g` completions of each of `b` prompts.

    Attributes:
      prompt: the prompts, padded on the left.
      counted: which of their tokens count.
      tokens: what was sampled; the pad token after a completion's end.
      where: which tokens count: all up to the end token, itself included.
      log_behavior: of each token, in nats, under the law that it was drawn from; 0
        where none counts. NaN where a row had no law: its logits held a NaN.
    """

    prompt: Int[Array, "b p"]
    counted: Bool[Array, "b p"]
    tokens: Int[Array, "b g t"]
    where: Bool[Array, "b g t"]
    log_behavior: Float[Array, "b g t"]

    def text(self) -> tuple[Int[Array, "n s"], Bool[Array, "n s"]]:
        """Prompts with their completions, ``n = b g`` rows, and which tokens count.

        What stands where a token does not count is 0.
        """
        b, g, t = self.tokens.shape

        def joined(before: Array, after: Array) -> Array:
            before = jnp.repeat(before, g, axis=0)
            return jnp.concatenate([before, after.reshape(b * g, t)], axis=1)

        ids = joined(self.prompt, self.tokens)
        where = joined(self.counted, self.where)
        return jnp.where(where, ids, 0), where


def roll_out(
    model: Model,
    prompt: Int[ArrayLike, "b p"],
    settings: Decoding,
    *,
    group: int,
    key: Key[Array, "*k"],
    where: Bool[ArrayLike, "b p"] | None = None,
) -> Rollouts:
    """Samples `group` completions of each prompt; may stand inside `jax.jit`, `vmap`.

    Nothing is differentiated through it.

    Args:
      model: a decoder and its parameters, as for `generate`.
      prompt: token ids, rows of different lengths padded on the left.
      settings: lengths, the law that is sampled from, the tokens that end a completion.
      group: completions per prompt, g.
      key: one random key, or one for each of the ``b g`` completions.
      where: which tokens of the prompt count; None: all. The last of a row must.

    Returns:
      The `Rollouts`.

    Raises:
      ValueError: greedy settings, which sample nothing; and as `generate`.
      TypeError: as `generate`.

    Example:
      >>> from kljax.models.language.transformer import TransformerConfig, transformer
      >>> config = TransformerConfig(vocab_size=31, width=16, depth=1, heads=2)
      >>> apply, initial = transformer(config)
      >>> model = apply, initial(jax.random.key(0))
      >>> settings, key = Decoding(5, stop_tokens=[2]), jax.random.key(1)
      >>> found = roll_out(model, [[3, 1], [4, 5]], settings, group=3, key=key)
      >>> found.tokens.shape, bool((found.log_behavior > -jnp.inf).all())
      ((2, 3, 5), True)
    """
    whole("group", group)
    if isinstance(settings, Decoding) and settings.sampling.greedy:
        raise ValueError(
            "settings.sampling is greedy (temperature 0): there is no law that the "
            "tokens are samples of; give a temperature above 0"
        )
    prompt = jnp.asarray(prompt)
    counted = jnp.ones(prompt.shape, bool) if where is None else jnp.asarray(where)
    decoder, params = model
    found = generate(
        [(decoder, jax.lax.stop_gradient(params))],
        jnp.repeat(prompt, group, axis=0),
        settings,
        where=jnp.repeat(counted, group, axis=0),
        key=key,
    )
    shape = (len(prompt), group, settings.max_new_tokens)
    inside = jnp.arange(shape[-1]) < found.lengths[:, None]
    return Rollouts(
        prompt,
        counted,
        found.tokens.reshape(shape),
        inside.reshape(shape),
        found.log_probabilities.reshape(shape),
    )


def log_probs(
    model: tuple[Callable[..., Array], PyTree],
    found: Rollouts,
    sampling: Sampling | None = None,
) -> Float[Array, "b g t"]:
    """What a policy gives the tokens of rollouts, in one pass over the texts.

    Args:
      model: a function ``apply(params, tokens, where)`` with logits of the next token,
        and its parameters, in which the result can be differentiated.
      found: from `roll_out`, of this policy or another one.
      sampling: the law: that of the rollouts' settings for the ratio to `log_behavior`;
        None, the model's own, for penalties and references. Where a filter of this
        policy would take a sampled token away it is kept beside what the filter keeps:
        a ratio is never 0 for what has been seen.

    Returns:
      Log-probabilities in nats, 0 where a token does not count.

    Raises:
      ValueError: settings without a law (greedy), or with a repetition penalty, whose
        law is another one at every token.

    Example:
      >>> from kljax.models.language.transformer import TransformerConfig, transformer
      >>> config = TransformerConfig(vocab_size=31, width=16, depth=1, heads=2)
      >>> apply, initial = transformer(config)
      >>> model, key = (apply, initial(jax.random.key(0))), jax.random.key(1)
      >>> found = roll_out(model, [[3, 1]], Decoding(5), group=2, key=key)
      >>> ratio = jnp.exp(log_probs(model, found) - found.log_behavior)
      >>> bool(jnp.allclose(ratio, 1, atol=1e-5))
      True
    """
    law = sampling or Sampling()
    if law.greedy or law.penalizes:
        raise ValueError(
            f"sampling is {sampling}: expected a temperature above 0 and no repetition "
            "penalty, one law for all tokens"
        )
    logits = token_logits(model, found)
    chosen = jnp.where(found.where, found.tokens, 0)[..., None]
    if sampling is not None:
        own = jnp.arange(logits.shape[-1]) == chosen
        logits = jnp.where(own, logits / law.temperature, warp(logits, law))
    log_p = jnp.take_along_axis(jax.nn.log_softmax(logits), chosen, axis=-1)[..., 0]
    return jnp.where(found.where, log_p, 0)


def token_logits(
    model: tuple[Callable[..., Array], PyTree], found: Rollouts
) -> Float[Array, "b g t v"]:
    """A policy's logits at every token of rollouts, before it was drawn.

    Args:
      model, found: as in `log_probs`.

    Returns:
      Logits before temperature and filters; meaningless where a token does not count.

    Example:
      >>> apply = lambda params, tokens, where: jnp.zeros((*tokens.shape, 7))
      >>> ids, kept = jnp.ones((1, 2, 3), int), jnp.ones((1, 2, 3), bool)
      >>> prompt, counted = ids[:, 0], kept[:, 0]
      >>> found = Rollouts(prompt, counted, ids, kept, jnp.zeros((1, 2, 3)))
      >>> token_logits((apply, None), found).shape
      (1, 2, 3, 7)
    """
    apply, params = model
    ids, where = found.text()
    start = found.prompt.shape[1] - 1
    logits = apply(params, ids[:, :-1], where[:, :-1])[:, start:]
    return logits.reshape(*found.tokens.shape, logits.shape[-1])
