"""Pictures of shapes, a policy that answers questions about them, and its training."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import kit
from kljax.divergences import forward_kl
from kljax.objectives.policy.advantages import group_advantages
from kljax.objectives.policy.legacy import formula
from kljax.objectives.policy.losses import policy_loss
from kljax.training import taken
from kljax.training.descent import descended

TASKS = ("counting", "covering")
THINK, ANSWER, FIRST, V, T = 0, 1, 2, 12, 4
"""Tokens: two tags, the digits 1 to 9, a filler. A response is a tag, a thought, a tag
and the answer."""
SHAPES = ("110110000", "111111111", "010111010", "111101111")
"""Of 3 x 3 pixels: small and large square, cross, frame."""


def pictures(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Patches `[n, 16, 48]` of pictures of 16 x 16 pixels, and each task's answer.

    One to nine shapes of three colors, each in a cell of its own of a 4 x 4 grid; drawn
    until one color covers more than the others.
    """
    drawn = np.array([[*map(int, x)] for x in SHAPES]).reshape(-1, 3, 3)
    shown = np.empty((0, 16, 4, 4, 3)), np.empty((0, 2), int)
    while len(shown[0]) < n:
        count = rng.integers(1, 10, n)
        there = rng.random((n, 16)).argsort(axis=1) < count[:, None]
        kind, color, down, right = rng.integers([[4], [3], [2], [2]], size=(4, n * 16))
        cells = np.zeros((n * 16, 4, 4, 3))
        for y in range(3):
            for x in range(3):
                at = np.arange(n * 16), down + y, right + x, color
                cells[at] = drawn[kind, y, x]
        cells = cells.reshape(n, 16, 4, 4, 3) * there[..., None, None, None]
        area = cells.sum(axis=(1, 2, 3))
        clear = (area == area.max(axis=1, keepdims=True)).sum(axis=1) == 1
        cells = cells * rng.uniform(0.5, 1, (n, 16, 1, 1, 1))
        answers = np.stack([count - 1, area.argmax(axis=1)], axis=1) + FIRST
        pair = cells[clear], answers[clear]
        shown = tuple(np.concatenate(both) for both in zip(shown, pair))
    noise = 0.05 * rng.normal(size=(n, 16, 48))
    return shown[0][:n].reshape(n, 16, 48) + noise, shown[1][:n]


# --------------------------------------------------------------------------- policy


def initial(key: Any, width: int) -> dict[str, Any]:
    """A patch encoder, summed, and a decoder that sees it and the token before."""
    sizes = {"patch": (48, width), "mix": (width, width), "see": (width, width),
             "before": (V + 1, width), "place": (T, width), "task": (2, width),
             "deep": (width, width), "head": (width, V)}  # fmt: skip
    keys = jax.random.split(key, len(sizes))
    table = {"before", "place", "task"}
    return {
        name: jax.random.normal(one, size)
        * (0.5 if name in table else 1 / math.sqrt(size[0]))
        for one, (name, size) in zip(keys, sizes.items())
    } | {"bias": jnp.zeros(width)}


def log_next(params: Any, x: Any, task: Any) -> Any:
    """Log-probabilities `[n, t, before, v]` of every token after every other one."""
    seen = jax.nn.relu(x @ params["patch"] + params["bias"]) @ params["mix"]
    seen = jax.nn.relu(seen).sum(axis=1) / 4 @ params["see"] + params["task"][task]
    state = seen[:, None, None] + params["place"][:, None] + params["before"]
    state = jax.nn.relu(jax.nn.relu(state) @ params["deep"])
    return jax.nn.log_softmax(state @ params["head"])


def reached(law: Any) -> Any:
    """Log-probability `[n, t, before]` of every token to be the one before: exact."""
    at, rows = jnp.full((*law.shape[:1], V + 1), -jnp.inf).at[:, V].set(0.0), []
    for t in range(T):
        rows.append(at)
        at = jax.nn.logsumexp(at[..., None] + law[:, t], axis=1)
        at = jnp.pad(at, ((0, 0), (0, 1)), constant_values=-jnp.inf)
    return jnp.stack([*rows, at], axis=1)


def accuracy(law: Any, answers: Any) -> Any:
    """Percent: the probability of the right answer, over all responses."""
    at = jnp.exp(reached(law)[:, -1])
    return 100 * jnp.take_along_axis(at, answers[:, None], axis=1).mean()


def kl(law: Any, reference: Any) -> Any:
    """KL from the first to the second, of whole responses: the chain rule, exact."""
    each = forward_kl(law, reference)
    return (jnp.exp(reached(law)[:, :-1]) * each).sum(axis=(1, 2)).mean()


def of_tokens(law: Any, tokens: Any) -> Any:
    """Log-probabilities of responses `[n, g, t]`."""
    first = jnp.full((*tokens.shape[:2], 1), V)
    before = jnp.concatenate([first, tokens[..., :-1]], axis=2)
    rows = jnp.arange(len(law))[:, None, None]
    return law[rows, jnp.arange(T), before, tokens]


def drawn(key: Any, law: Any, group: int) -> Any:
    """Responses `[n, g, t]`."""
    before, tokens = jnp.full((len(law), group), V), []
    for t, one in enumerate(jax.random.split(key, T)):
        logits = law[jnp.arange(len(law))[:, None], t, before]
        before = jax.random.categorical(one, logits)
        tokens.append(before)
    return jnp.stack(tokens, axis=2)


def supervised(law: Any, answers: Any) -> Any:
    """Minus the log-probability of a response that thinks the answer and says it."""
    n = len(answers)
    tags = jnp.full(n, THINK), answers, jnp.full(n, ANSWER), answers
    return -of_tokens(law, jnp.stack(tags, axis=1)[:, None]).sum(axis=-1).mean()


def reinforced(law: Any, reference: Any, answers: Any, key: Any, beta: Any, n: int):
    """GRPO's loss: right answers and format count alike (Eq. 1), k3 in the loss."""
    tokens = drawn(key, jax.lax.stop_gradient(law), n)
    right = tokens[..., 3] == answers[:, None]
    form = (tokens[..., 0] == THINK) & (tokens[..., 2] == ANSWER)
    # The paper's Eq. 5, whose gradient is that of the forward KL: it is what is tested.
    penalty: Any = formula("k3", "loss", allow_biased=True)
    losses, _ = policy_loss(
        of_tokens(law, tokens), group_advantages(1.0 * right + form), penalty=penalty,
        log_p=of_tokens(reference, tokens), beta=beta, aggregate="seq_mean",
    )  # fmt: skip
    return losses.mean()


# ------------------------------------------------------------------------- training


@functools.partial(jax.jit, static_argnames="config")
def pretrained(config: Any, x: Any, y: Any, seeds: Any) -> Any:
    """The base model of every seed: a few supervised steps on both tasks."""

    def one(seed):
        key = jax.random.key(seed)

        def loss(params, key):
            rows = jax.random.randint(key, (config.batch,), 0, len(x))
            laws = [log_next(params, x[rows], task) for task in range(2)]
            return sum(supervised(law, y[rows, i]) for i, law in enumerate(laws))

        given = loss, initial(key, config.width), optax.adam(3e-3)
        ends = descended(*given, [config.pretraining], key=jax.random.fold_in(key, 1))
        return jax.tree.map(lambda x: x[0], ends)

    return jax.vmap(one)(seeds)


@functools.partial(jax.jit, static_argnames=("config", "sft"))
def trained(config: Any, sft: bool, data: dict, members: dict) -> dict[str, Any]:
    """What policies come to on the way, `[members, 11]` by measure."""
    (x, y), (tests, answers) = data["pictures"], data["tests"]

    def one(base, seed, rate, beta, task):
        draw, key = jax.random.split(jax.random.fold_in(jax.random.key(seed), 2 + task))
        known = jax.random.permutation(draw, len(x))[: config.examples]
        reference = log_next(base, x[known], task)

        def loss(params, n, key):
            pick, key = jax.random.split(key)
            rows = jax.random.randint(pick, (config.batch,), 0, len(known))
            law, right = log_next(params, x[known[rows]], task), y[known[rows], task]
            if sft:
                return supervised(law, right), n + 1
            given = law, reference[rows], right, key, beta[n], config.group
            return reinforced(*given), n + 1

        def watch(params, _):
            laws = [log_next(params, tests, place) for place in (task, 1 - task)]
            own, other = (
                accuracy(law, answers[:, place])
                for law, place in zip(laws, (task, 1 - task))
            )
            away = kl(laws[0], log_next(base, tests, task))
            return {"own": own, "other": other, "KL": away}

        stops = range(0, config.steps + 1, config.steps // 10)
        given = loss, base, optax.adam(rate), stops
        return descended(*given, key=key, memory=jnp.array(0), watch=watch)

    given = (members[k] for k in ("base", "seed", "rate", "beta", "task"))
    return jax.vmap(one)(*given)


def ends(study: kit.Study, label: str, sft: bool, seeds: tuple, kinds: dict) -> dict:
    """Measures `[tasks, seeds, 11]` of each kind, a (rate, weights by step)."""
    config = study.config

    def work() -> dict:
        rng = np.random.default_rng(config.seed)
        data = {name: tuple(map(jnp.asarray, pictures(rng, getattr(config, name))))
                for name in ("pictures", "tests")}  # fmt: skip
        data = jax.tree.map(lambda x: x.astype(jnp.float32) if x.ndim > 2 else x, data)
        places = kit.grid(range(len(kinds)), range(len(TASKS)), range(len(seeds)))
        kind, task, seed = np.array(places, np.int32).T
        bases = pretrained(config, *data["pictures"], np.array(seeds, np.int32))
        rates, betas = (np.array(v, np.float32) for v in zip(*kinds.values()))
        members = {
            "base": taken(bases, seed), "seed": np.array(seeds, np.int32)[seed],
            "rate": rates[kind], "beta": betas[kind], "task": task,
        }  # fmt: skip
        found = jax.device_get(trained(config, sft, data, members))
        shape = len(kinds), len(TASKS), len(seeds)
        joined = {k: v.reshape(*shape, 11) for k, v in found.items()}
        return {x: {k: v[i] for k, v in joined.items()} for i, x in enumerate(kinds)}

    return study.once((label, "SFT" if sft else "GRPO"), work)
