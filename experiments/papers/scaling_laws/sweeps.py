"""Sources of tokens, and transformers of many sizes that read them.

Every size is one compiled program: all steps are in one loop that stops to be judged at
times that are equal in log(steps). What is judged is an average of the weights over the
last tenth of the steps, as a stand-in for a learning rate that has come down by then.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from scipy import stats

from kljax.data import load
from kljax.data.arithmetic import sums
from kljax.data.readers.python import source_files
from kljax.models.language.transformer import TransformerConfig, transformer
from kljax.theory.compute_optimal import non_embedding, training_flops
from kljax.typing import Array, Float, PyTree

SYMBOLS, DIGITS = 16, 4
"""Of the Zipf source: a context is 4 digits of base 16, what follows one more."""
LEVELS = 16
"""Gray levels of images, tokens in raster order."""
HELD_OUT_BYTES = 64


class Text(NamedTuple):
    """Tokens that are read, what is to be said behind each, and what of it counts."""

    tokens: Any
    target: Any
    """Ids `[b t]`, or laws `[b t v]`."""
    weight: Any

    def loss(self, logits: Array) -> Array:
        """Cross-entropy, nats per token that counts."""
        log_q = jax.nn.log_softmax(logits)
        if self.target.ndim == 3:
            said = (self.target * log_q).sum(-1)
        else:
            said = jnp.take_along_axis(log_q, self.target[..., None], -1)[..., 0]
        return -(self.weight * said).sum() / self.weight.sum()


class Source(NamedTuple):
    """What is read: `draw(key, arrays)` is a batch, `held` are texts to be judged by."""

    vocabulary: int
    draw: Callable[[Array, Any], Text]
    arrays: Any
    held: dict[str, Text]
    entropy: float = math.nan
    """Nats per token that counts, where it is known."""
    what: str = ""


def rows(tokens: np.ndarray) -> Text:
    """Text whose every token is said from the ones before; the first from token 0."""
    before = np.pad(tokens, ((0, 0), (1, 0)))[:, :-1]
    return Text(before, tokens, np.ones(tokens.shape, np.float32))


def drawn(batch: int) -> Callable[[Array, Text], Text]:
    """Rows of a text with replacement."""

    def draw(key: Array, every: Text) -> Text:
        chosen = jax.random.randint(key, (batch,), 0, len(every.tokens))
        return Text(*(x[chosen] for x in every))

    return draw


def zipf(exponent: float, batch: int, seed: int, judged: int = 2048) -> Source:
    """Contexts of probabilities k^-(1 + exponent), each with a law of its own.

    The target is the law itself: its cross-entropy is the KL and the exact entropy. The
    judged are all of the first contexts, and a sample of the others with their mass.
    """
    rng, contexts = np.random.default_rng([seed, 1]), SYMBOLS**DIGITS
    p = np.arange(1, contexts + 1) ** -(1 + exponent)
    p /= p.sum()
    law = rng.standard_gamma(0.5, (contexts, SYMBOLS)) + 1e-30
    law = (law / law.sum(axis=1, keepdims=True)).astype(np.float32)
    last = np.eye(DIGITS, dtype=np.float32)[-1]

    def text(chosen: Any, law: Any, mass: Any) -> Text:
        digits = chosen[:, None] // SYMBOLS ** np.arange(DIGITS)[::-1] % SYMBOLS
        target = jnp.broadcast_to(law[chosen][:, None], (*digits.shape, SYMBOLS))
        return Text(digits, target, mass[:, None] * last)

    def draw(key: Array, arrays: tuple[Array, Array]) -> Text:
        law, under = arrays
        u = jax.random.uniform(key, (batch,)) * under[-1]
        chosen = jnp.searchsorted(under, u).clip(max=contexts - 1)
        return text(chosen, law, jnp.ones(batch))

    some = rng.choice(np.arange(judged, contexts), judged, replace=False)
    tail = np.full(judged, p[judged:].sum() / judged)
    # The tail's sample stands for its entropy too, or the KL would be off by as much.
    chosen, mass = np.append(np.arange(judged), some), np.append(p[:judged], tail)
    own = -(law * np.log(np.maximum(law, 1e-30))).sum(axis=1)
    arrays = law, p.cumsum().astype(np.float32)
    held = {"held out": text(chosen, law, mass.astype(np.float32))}
    entropy = float((mass * own[chosen]).sum() / mass.sum())
    return Source(SYMBOLS, draw, arrays, held, entropy, f"{contexts:,} contexts")


def shrunk(images: np.ndarray, side: int) -> np.ndarray:
    """Means of blocks, in gray levels: 28 pixels are cut to 24 or padded to 32."""
    size = images.shape[1]
    fit = size if size % side == 0 else 24 if side == 8 else 32
    edge = abs(fit - size) // 2
    x = images[..., 0].astype(float)
    x = (
        x[:, edge : edge + fit, edge : edge + fit]
        if fit < size
        else np.pad(x, ((0, 0), (edge, edge), (edge, edge)))
    )
    block = fit // side
    return x.reshape(len(x), side, block, side, block).mean(axis=(2, 4))


def pictures(name: str, side: int, batch: int, judged: int, count: int = 0) -> Source:
    """Gray images of a data set, or of its stand-in where it was not fetched."""
    parts = [load(name, part, allow_synthetic=True) for part in ("train", "test")]
    tokens = [
        np.rint(shrunk(one.images, side) / (one.levels - 1) * (LEVELS - 1))
        .astype(np.int32)
        .reshape(len(one.images), -1)
        for one in parts
    ]
    train = rows(tokens[0][: count or None])
    held = {"held out": rows(tokens[1][:judged])}
    stand_in = " (stand-in)" * (parts[0].manifest["source"] == "synthetic")
    what = f"{len(train.tokens):,} images{stand_in}"
    return Source(LEVELS, drawn(batch), train, held, what=what)


def code(batch: int, length: int, judged: int) -> Source:
    """Bytes of the standard library's sources; every 64th file is held out."""
    folder = source_files("json")[0].parents[1]
    files = sorted(folder.glob("*.py")) + sorted(folder.glob("[a-z]*/*.py"))
    files = [path for path in files if "site-packages" not in path.parts]
    parts = [b"".join(p.read_bytes() for p in files[i::HELD_OUT_BYTES]) for i in (0,)]
    kept = [p for i, p in enumerate(files) if i % HELD_OUT_BYTES]
    parts = [b"".join(path.read_bytes() for path in kept), *parts]
    train, held = (np.frombuffer(part, np.uint8).astype(np.int32) for part in parts)

    def draw(key: Array, text: Array) -> Text:
        start = jax.random.randint(key, (batch,), 0, len(text) - length)
        tokens = text[start[:, None] + jnp.arange(length + 1)]
        return Text(tokens[:, :-1], tokens[:, 1:], jnp.ones((batch, length)))

    windows = held[: len(held) // (length + 1) * (length + 1)].reshape(-1, length + 1)
    windows = windows[np.linspace(0, len(windows) - 1, judged).astype(int)]
    weight = np.ones((judged, length), np.float32)
    said = {"held out": Text(windows[:, :-1], windows[:, 1:], weight)}
    return Source(256, draw, train, said, what=f"{len(train):,} bytes")


def carries(digits: int, batch: int, judged: int, longest: int) -> Source:
    """Sums whose carries run over `longest` digits at most; longer ones are judged."""
    asked, answers = sums(digits, 400_000)
    a, b = asked[:, :digits], asked[:, digits:]
    carry, run, most = (np.zeros(len(a), int) for _ in range(3))
    for i in range(digits):
        carry = (a[:, i] + b[:, i] + carry) // 10
        run = (run + 1) * carry
        most = np.maximum(most, run)
    tokens = np.hstack([asked, answers])
    order = np.random.default_rng(0).permutation(len(tokens))
    tokens, most = tokens[order].astype(np.int32), most[order]
    counts = np.arange(tokens.shape[1]) >= 2 * digits

    def text(chosen: np.ndarray) -> Text:
        plain = rows(tokens[chosen])
        return plain._replace(weight=plain.weight * counts)

    short = np.flatnonzero(most <= longest)
    held = {"held out": text(short[:judged])}
    for length in range(longest + 1, digits + 1):
        held[f"carries of {length}"] = text(np.flatnonzero(most == length)[:judged])
    train = text(short[judged:])
    what = f"{len(train.tokens):,} sums"
    return Source(10, drawn(batch), train, held, 0.0, what)


def model(source: Source, width: int, depth: int, length: int) -> tuple[Any, Any]:
    """The standard shape: 12 depth width^2 weights between the embeddings."""
    shape: Any = {"mlp": "plain", "activation": "gelu", "rope": None, "tied": False}
    heads = max(2, width // 64)
    size = TransformerConfig(
        source.vocabulary, width, depth, heads, max_length=length, **shape
    )
    return transformer(size)


def trained(
    loss: Callable[[PyTree, Array, Any, Array], Array],
    judge: Callable[[PyTree], PyTree],
    params: PyTree,
    rate: float,
    stops: tuple[int, ...],
    arrays: Any,
    key: Array,
) -> PyTree:
    """What `judge` says of the averaged weights at all stops; one compiled program.

    Args:
        loss: `loss(params, key, arrays, n)` of a step's number n, from 0.
        judge: of weights.
        params: to start from.
        rate: Adam's, after 5 % of the steps; what follows is constant.
        stops: steps at which it is judged, ascending.
        arrays: data.
        key: random key.
    """
    warm = max(1, stops[-1] // 20)
    rule: Any = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.adam(optax.linear_schedule(0, rate, warm), b2=0.98),
    )

    def step(n: Array, carried: Any) -> Any:
        params, mean, state = carried
        own = jax.random.fold_in(key, n)
        grads = jax.grad(loss)(params, own, arrays, n)
        updates, state = rule.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        share = 1 / jnp.maximum(1, 0.1 * (n + 1))
        mean = jax.tree.map(lambda m, p: m + share * (p - m), mean, params)
        return params, mean, state

    def part(carried: Any, ends: Array) -> tuple[Any, Any]:
        carried = jax.lax.fori_loop(ends[0], ends[1], step, carried)
        return carried, judge(carried[1])

    ends = jnp.stack([jnp.array([0, *stops[:-1]]), jnp.array(stops)], 1)
    start = params, params, rule.init(params)
    return jax.lax.scan(part, start, ends)[1]


def stops_of(steps: int, count: int) -> tuple[int, ...]:
    """Numbers of steps from a fiftieth on, equal in their logarithms."""
    return (*np.unique(np.geomspace(max(1, steps / 50), steps, count).round()),)


def curve(
    source: Source, width: int, depth: int, rate: float, stops: tuple, seed: int
) -> dict[str, Any]:
    """Learning curve of one size: losses by held-out text, weights and compute."""
    keys = jax.random.split(jax.random.key(seed), 3)
    tokens = jax.eval_shape(source.draw, keys[0], source.arrays).tokens
    apply, initial = model(source, width, depth, tokens.shape[1])
    params = initial(keys[1])
    stops = tuple(int(n) for n in stops)

    def loss(params: PyTree, key: Array, arrays: Any, n: Array) -> Array:
        text = source.draw(key, arrays)
        return text.loss(apply(params, text.tokens))

    def run(params: PyTree, arrays: Any, held: Any) -> PyTree:
        judge = lambda p: {k: t.loss(apply(p, t.tokens)) for k, t in held.items()}  # noqa: E731
        return trained(loss, judge, params, rate, stops, arrays, keys[2])

    arrays = jax.tree.map(jnp.asarray, (source.arrays, source.held))
    found = jax.jit(run)(params, *arrays)
    size = non_embedding(params)
    seen = np.array(stops) * tokens.size
    return {
        "N": size,
        "tokens": seen,
        "C": np.asarray(training_flops(float(size), seen.astype(float))),
        "loss": {name: np.asarray(v, float) for name, v in found.items()},
    }


def pair_information(correlation: float, levels: int) -> float:
    """Mutual information of two normal numbers in levels of equal probability."""
    ends = np.clip(stats.norm.ppf(np.linspace(0, 1, levels + 1)), -9, 9)
    law = stats.multivariate_normal(np.zeros(2), [[1, correlation], [correlation, 1]])
    under = law.cdf(np.stack(np.meshgrid(ends, ends, indexing="ij"), -1))
    p = np.diff(np.diff(under, axis=0), axis=1).clip(1e-300)
    p /= p.sum()
    return float((p * np.log(p / np.outer(p.sum(1), p.sum(0)))).sum())


def captions(
    size: tuple[int, int], pairs: int, correlation: float, levels: int, batch: int,
    judged: int, rate: float, steps: int, seeds: tuple[int, ...],
) -> dict[str, Any]:  # fmt: skip
    """Losses with a caption and without, of models that had blank captions or had not.

    A caption and an image are `pairs` numbers each, correlated one by one. From half of
    the steps on, every second caption is blank in half of the runs.
    """
    ends = jnp.asarray(stats.norm.ppf(np.linspace(0, 1, levels + 1)[1:-1]))
    blank, begin = levels, levels + 1
    is_image = jnp.arange(2 * pairs) >= pairs

    def draw(key: Array, share: Array, batch: int) -> Text:
        keys = jax.random.split(key, 2)
        x, noise = jax.random.normal(keys[0], (2, batch, pairs))
        y = correlation * x + math.sqrt(1 - correlation**2) * noise
        said = jnp.searchsorted(ends, jnp.concatenate([x, y], 1))
        hidden = jax.random.uniform(keys[1], (batch, 1)) < share
        seen = jnp.where(hidden & ~is_image, blank, said)
        tokens = jnp.pad(seen, ((0, 0), (1, 0)), constant_values=begin)[:, :-1]
        return Text(tokens, said, jnp.where(hidden, is_image, True) * 1.0)

    source = Source(levels + 2, lambda key, _: draw(key, jnp.zeros(()), batch), None, {})
    apply, initial = model(source, *size, 2 * pairs)
    stops = tuple(int(n) for n in stops_of(steps, 8))

    def run(mixing: Array, seed: Array) -> PyTree:
        keys = jax.random.split(jax.random.key(seed), 3)

        def loss(params: PyTree, key: Array, _: Any, n: Array) -> Array:
            share = jnp.where(n >= steps // 2, mixing, 0.0)
            text = draw(key, share, batch)
            return text.loss(apply(params, text.tokens))

        def judge(params: PyTree) -> dict[str, Array]:
            def nats(share: float, weight: Array) -> Array:
                text = draw(keys[2], jnp.asarray(share), judged)
                weight = jnp.broadcast_to(weight * 1.0, text.tokens.shape)
                logits = apply(params, text.tokens)
                return text._replace(weight=weight).loss(logits) * pairs

            return {
                "captioned": nats(0.0, is_image),
                "blank": nats(1.0, is_image),
                "text": nats(0.0, ~is_image),
            }

        return trained(loss, judge, initial(keys[0]), rate, stops, None, keys[1])

    across = jax.vmap(jax.vmap(run, (None, 0)), (0, None))
    found = jax.jit(across)(jnp.array([0.5, 0.0]), jnp.array(seeds))
    return {name: np.asarray(v, float) for name, v in found.items()}


def subsets(
    source: Source, size: tuple[int, int], counts: tuple[int, ...], rate: float,
    stops: tuple, seeds: tuple[int, ...],
) -> Float[np.ndarray, "seeds counts"]:  # fmt: skip
    """The least held-out loss on the way, of models that had so many rows each."""
    tokens = jax.eval_shape(source.draw, jax.random.key(0), source.arrays).tokens
    apply, initial = model(source, *size, tokens.shape[1])
    held = jax.tree.map(jnp.asarray, source.held["held out"])
    every, batch = jax.tree.map(jnp.asarray, source.arrays), len(tokens)
    stops = tuple(int(n) for n in stops)

    def run(seed: Array, count: Array) -> Array:
        keys = jax.random.split(jax.random.key(seed), 3)
        order = jax.random.permutation(keys[2], len(every.tokens))

        def loss(params: PyTree, key: Array, every: Text, n: Array) -> Array:
            chosen = order[jax.random.randint(key, (batch,), 0, count)]
            text = Text(*(x[chosen] for x in every))
            return text.loss(apply(params, text.tokens))

        judge = lambda params: held.loss(apply(params, held.tokens))  # noqa: E731
        start = initial(keys[0])
        return trained(loss, judge, start, rate, stops, every, keys[1]).min()

    across = jax.vmap(jax.vmap(run, (None, 0)), (0, None))
    return np.asarray(jax.jit(across)(jnp.array(seeds), jnp.array(counts)), float)
