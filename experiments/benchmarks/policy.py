"""A GRPO step of a small transformer: sampling and update, beside plain JAX.

Plain JAX: the model, its cache, the sampling loop and the loss as one writes them for
this one step, `jax.random.categorical` and optax, with all sizes fixed and nothing
checked. Both do the same: prompts are read into a cache, completions are sampled, the
reference reads them, and the policy takes one step of Adam. So does TRL's trainer,
where it is installed, with a Llama of the same sizes. The floor is what the matrix
products take.
"""

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.benchmarks import torch_peers
from experiments.benchmarks.measuring import Contender, Floors, Group, Question, Reason
from kljax.decoding import Decoding, log_probs, roll_out
from kljax.models.language.transformer import TransformerConfig, transformer
from kljax.objectives.policy.advantages import group_advantages
from kljax.objectives.policy.losses import policy_loss
from kljax.training import Loss, Player, adam, init_state, make_step

__all__ = ["PRESETS", "QUESTIONS", "REASONS", "groups"]

BETA, RATE = 0.04, 1e-4


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Of the model; prompts, samples of each, and their lengths in tokens."""

    config: TransformerConfig
    prompts: int
    group: int
    read: int
    written: int


def _model(vocabulary: int, width: int, depth: int) -> TransformerConfig:
    return TransformerConfig(vocabulary, width, depth, heads=4, max_length=512)


PRESETS = {
    "smoke": (Sizes(_model(32, 16, 1), 2, 2, 3, 4),),
    "cpu": (
        Sizes(_model(1024, 128, 4), 4, 8, 16, 48),
        Sizes(_model(8192, 128, 2), 4, 8, 16, 48),
    ),
    "gpu": (Sizes(_model(32768, 512, 8), 32, 16, 64, 192),),
}


def _paid(tokens: Any) -> Any:
    """A reward: the share of even tokens."""
    return jnp.mean(tokens % 2 == 0, axis=-1)


def _ours(sizes: Sizes, state: Any, reference: Any, prompt: Any) -> Any:
    apply, _ = transformer(sizes.config)
    settings = Decoding(sizes.written)

    def loss(params, *, state, frozen, batch, key):
        asked = batch["prompt"]
        found = roll_out((apply, params), asked, settings, group=sizes.group, key=key)
        log_q, log_p = (log_probs((apply, one), found) for one in (params, frozen))
        advantages = group_advantages(_paid(found.tokens))
        each, _ = policy_loss(
            log_q, advantages, log_behavior=found.log_behavior, log_p=log_p, beta=BETA
        )
        return Loss(None, mean=each.mean())

    step = make_step([Player("policy", loss, adam(RATE))])
    return step(state, {"prompt": prompt}, reference)[0].params


# ------------------------------------------------------------------------ plain JAX


def _norm(x: Any, scale: Any) -> Any:
    return x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + 1e-5) * scale


def _turned(x: Any, positions: Any) -> Any:
    half = x.shape[-1] // 2
    angle = positions[:, None, None] * 10_000.0 ** (-jnp.arange(half) / half)
    a, b = x[..., :half], x[..., half:]
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)


def _forward(params: Any, tokens: Any, caches: Any = None, start: Any = 0) -> Any:
    """Logits, and the caches `[b, slots, h, d]` where there are some."""
    head, heads = params["head"]["kernel"], 4
    x = head.T[tokens]
    b, t, _ = x.shape
    positions = start + jnp.arange(t)
    after = []
    for i in range(len(params["layers"])):
        layer = params["layers"][i]
        own, mlp = layer["attention"], layer["mlp"]
        y = _norm(x, layer["attention_norm"]["scale"])
        q, k, v = (
            (y @ own[name]["kernel"]).reshape(b, t, heads, -1)
            for name in ("query", "key", "value")
        )
        q, k = _turned(q, positions), _turned(k, positions)
        if caches is not None:
            k, v = (
                jax.lax.dynamic_update_slice_in_dim(old, new, start, axis=1)
                for old, new in zip(caches[i], (k, v))
            )
            after.append((k, v))
        scores = jnp.einsum("bqhd,bkhd->bhqk", q, k) / q.shape[-1] ** 0.5
        seen = jnp.arange(k.shape[1]) <= positions[:, None]
        weights = jax.nn.softmax(jnp.where(seen, scores, -jnp.inf))
        mixed = jnp.einsum("bhqk,bkhd->bqhd", weights, v).reshape(b, t, -1)
        x = x + mixed @ own["output"]["kernel"]
        y = _norm(x, layer["mlp_norm"]["scale"])
        inner = jax.nn.silu(y @ mlp["gate"]["kernel"]) * (y @ mlp["up"]["kernel"])
        x = x + inner @ mlp["down"]["kernel"]
    return _norm(x, params["final_norm"]["scale"]) @ head, after


def _chosen(logits: Any, tokens: Any) -> Any:
    log_p = jax.nn.log_softmax(logits)
    return jnp.take_along_axis(log_p, tokens[..., None], axis=-1)[..., 0]


def _plain(sizes: Sizes, state: Any, reference: Any, prompt: Any) -> Any:
    params, key = state.params["policy"], state.key
    rows, rule = sizes.prompts * sizes.group, adam(RATE)
    asked = jnp.repeat(prompt, sizes.group, axis=0)
    slots = sizes.read + sizes.written - 1
    shape = (rows, slots, 4, sizes.config.head_dim)
    caches = [(jnp.zeros(shape), jnp.zeros(shape)) for _ in range(sizes.config.depth)]
    logits, caches = _forward(params, asked, caches)

    def draw(carried, n):
        logits, caches = carried
        token = jax.random.categorical(jax.random.fold_in(key, n), logits)
        log_b = _chosen(logits, token)
        logits, caches = _forward(params, token[:, None], caches, sizes.read + n)
        return (logits[:, 0], caches), (token, log_b)

    start, steps = (logits[:, -1], caches), jnp.arange(sizes.written - 1)
    (logits, _), (tokens, log_b) = jax.lax.scan(draw, start, steps)
    last = jax.random.categorical(jax.random.fold_in(key, sizes.written), logits)
    tokens = jnp.append(tokens.T, last[:, None], axis=1)
    log_b = jnp.append(log_b.T, _chosen(logits, last)[:, None], axis=1)
    text = jnp.concatenate([asked, tokens], axis=1)[:, :-1]
    paid = _paid(tokens).reshape(sizes.prompts, sizes.group)
    centered = paid - paid.mean(axis=1, keepdims=True)
    advantage = centered / (paid.std(axis=1, ddof=1, keepdims=True) + 1e-6)
    log_p = _chosen(_forward(reference, text)[0][:, sizes.read - 1 :], tokens)

    def loss(params):
        log_q = _chosen(_forward(params, text)[0][:, sizes.read - 1 :], tokens)
        ratio, a = jnp.exp(log_q - log_b), advantage.reshape(-1, 1)
        gain = jnp.minimum(ratio * a, jnp.clip(ratio, 0.8, 1.2) * a)
        k3 = jnp.exp(log_p - log_q) - (log_p - log_q) - 1
        return jnp.mean(BETA * ratio * k3 - gain)

    grads = jax.grad(loss)(params)
    updates, _ = rule.update(grads, state.opt_state["policy"], params)
    return optax.apply_updates(params, updates)


def _arguments(sizes: Sizes) -> tuple[Any, Any, Any]:
    _, initial = transformer(sizes.config)
    params, reference = (initial(jax.random.key(i)) for i in range(2))
    idle = Player("policy", lambda params, **_: Loss(None), adam(RATE))
    state = init_state(jax.random.key(2), {"policy": params}, [idle])
    shape, vocabulary = (sizes.prompts, sizes.read), sizes.config.vocab_size
    prompt = jax.random.randint(jax.random.key(3), shape, 0, vocabulary)
    return state, reference, prompt


def _difference(sizes: Sizes) -> dict[str, float]:
    """Whether both are of the same model: logits of the prompts."""
    state, _, prompt = _arguments(sizes)
    params, (apply, _) = state.params["policy"], transformer(sizes.config)
    found, plain = np.asarray(apply(params, prompt)), _forward(params, prompt)[0]
    return {
        "of largest logit": float(np.abs(found - plain).max() / np.abs(found).max())
    }


def groups(preset: str) -> Iterator[Group]:
    """What is compared, one size after the other."""
    for sizes in PRESETS[preset]:
        model = sizes.config
        weights = model.depth * (4 * model.width**2 + 3 * model.width * model.hidden)
        weights += model.width * model.vocab_size
        rows = sizes.prompts * sizes.group
        whole = rows * (sizes.read + sizes.written)
        # Read and written once, by the reference once, and thrice for the gradient.
        products = 2 * weights * (whole + whole + 3 * whole)

        def floor(rates: Floors, products: int = products) -> float:
            return products / rates.gemm

        yield Group(
            "GRPO step",
            {"B": rows, "T": sizes.written, "V": model.vocab_size},
            functools.partial(_arguments, sizes),
            [
                Contender("kljax", functools.partial(_ours, sizes),
                          error=functools.partial(_difference, sizes)),
                Contender("plain JAX", functools.partial(_plain, sizes)),
                torch_peers.grpo(model, np.asarray(_arguments(sizes)[2]), sizes.group,
                                 sizes.written, BETA, RATE),
            ],
            floor,
        )  # fmt: skip


QUESTIONS = (Question("grpo", "Sampling and an update", ("GRPO step",)),)
REASONS: tuple[Reason, ...] = ()
