"""A decoder-only transformer in float64 NumPy: one row, one head, one token at a time.

Written from the papers; shares no code with kljax. It takes a configuration's fields
and a nested dict of arrays, and one row of tokens without padding.
"""

import math

import jax
import numpy as np


def draw(initial, seed=1):
    """Parameters for `initial` without compiling it; biases, scales random too."""
    rng = np.random.default_rng(seed)

    def one(path, leaf):
        kind = path[-1].key
        scale = {"kernel": leaf.shape[-2:][0] ** -0.5, "table": 1.0}.get(kind, 0.3)
        return np.float32(rng.normal(size=leaf.shape) * scale + (kind == "scale"))

    shapes = jax.eval_shape(initial, jax.random.key(0))
    return jax.tree_util.tree_map_with_path(one, shapes)


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def _erf(x):
    return np.vectorize(math.erf)(x)


ACTIVATIONS = {
    "silu": lambda x: x / (1 + np.exp(-x)),
    "gelu": lambda x: x * 0.5 * (1 + _erf(x / math.sqrt(2))),
    "gelu_tanh": lambda x: (
        0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    ),
    "relu": lambda x: np.maximum(x, 0),
}


def dense(p, x):
    return x @ p["kernel"] + p.get("bias", 0.0)


def normed(kind, p, x, eps):
    if kind == "layer":
        x = x - x.mean(-1, keepdims=True)
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + eps) * p["scale"] + p.get(
        "bias", 0.0
    )


def turned(x, position, frequencies):
    """The pairs as complex numbers, times `exp(i position frequency)`."""
    half = len(x) // 2
    z = (x[:half] + 1j * x[half:]) * np.exp(1j * position * frequencies)
    return np.concatenate([z.real, z.imag])


def attention(config, p, x, frequencies, window=None):
    t, d = len(x), config.head_dim
    q, k, v = (dense(p[n], x).reshape(t, -1, d) for n in ("query", "key", "value"))
    if config.qk_norm:
        q = normed("rms", p["query_norm"], q, config.norm_eps)
        k = normed("rms", p["key_norm"], k, config.norm_eps)
    out = np.zeros_like(q)
    for head in range(config.heads):
        shared = head // (config.heads // config.kv_heads)
        queries, keys = q[:, head], k[:, shared]
        if frequencies is not None:
            queries = np.stack(
                [turned(row, i, frequencies) for i, row in enumerate(q[:, head])]
            )
            keys = np.stack(
                [turned(row, i, frequencies) for i, row in enumerate(k[:, shared])]
            )
        for i in range(t):
            read = slice(max(0, i + 1 - (window or t)), i + 1)
            w = softmax(keys[read] @ queries[i] / math.sqrt(d))
            out[i, head] = w @ v[read, shared]
    return dense(p["output"], out.reshape(t, -1))


def mlp(config, p, x):
    act = ACTIVATIONS[config.activation]
    inner = act(dense(p["up"], x))
    if config.mlp == "gated":
        inner = act(dense(p["gate"], x)) * dense(p["up"], x)
    return dense(p["down"], inner)


def mixture(config, p, x):
    out = np.zeros_like(x)
    for i, row in enumerate(x):
        probabilities = softmax(dense(p["router"], row))
        best = np.argsort(-probabilities)[: config.experts_per_token]
        for e in best:
            expert = {
                n: {a: leaf[e] for a, leaf in p[n].items()}
                for n in ("gate", "up", "down")
                if n in p
            }
            whole = probabilities[best].sum() if config.expert_sum else 1.0
            weight = probabilities[e] / whole
            out[i] += weight * mlp(config, expert, row)
    return out


def logits(config, params, tokens, frequencies=None):
    """`[t, vocab]` for one row of tokens; `frequencies` replace the rotary ones."""
    p, eps = params, config.norm_eps
    table = p["head"]["kernel"].T if config.tied else p["embedding"]["table"]
    x = table[tokens]
    if config.rope is None:
        x = x + p["positions"]["table"][: len(tokens)]
    elif frequencies is None:
        d = config.head_dim
        frequencies = np.array(
            [config.rope.base ** (-2 * i / d) for i in range(d // 2)]
        )
    for i in range(config.depth):
        layer = p["layers"][i]
        inner = normed(config.norm, layer["attention_norm"], x, eps)
        short = config.window_layers is None or i in config.window_layers
        window = config.window if short else None
        x = x + attention(config, layer["attention"], inner, frequencies, window)
        inner = normed(config.norm, layer["mlp_norm"], x, eps)
        part = mixture if "router" in layer["mlp"] else mlp
        x = x + part(config, layer["mlp"], inner)
    out = dense(p["head"], normed(config.norm, p["final_norm"], x, eps))
    return (
        out
        if config.soft_cap is None
        else config.soft_cap * np.tanh(out / config.soft_cap)
    )
