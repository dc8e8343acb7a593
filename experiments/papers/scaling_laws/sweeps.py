"""Sources of tokens, and transformers of many sizes that read them.

Every size is one compiled program. What is judged is an average of the weights over the
last tenth of the steps, in place of a learning rate that has come down by then.
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
from kljax.data.arithmetic import longest_carry, sums
from kljax.data.images import shrunk
from kljax.data.readers.python import source_files
from kljax.models.language.transformer import TransformerConfig, transformer
from kljax.theory.compute_optimal import non_embedding, training_flops
from kljax.theory.sources import zipf_contexts
from kljax.training.descent import descended
from kljax.typing import Array, Float, PyTree

SYMBOLS, DIGITS = 16, 4
"""Of the Zipf source: a context is 4 digits of base 16, what follows one more."""
LEVELS = 16
"""Gray levels of images, tokens in raster order."""
PAIRS, CORRELATION, CAPTION_LEVELS = 4, 0.8, 8
"""Numbers of a caption and of an image, correlated one by one; their levels."""


class Text(NamedTuple):
    """Tokens that are read, what is to be said behind each, and what of it counts."""

    tokens: Any
    target: Any
    """Ids `[b t]`, or laws `[b t v]`."""
    weight: Any

    def loss(self, logits: Array) -> Array:
        """Cross-entropy, nats per token that counts."""
        log_q, target = jax.nn.log_softmax(logits), self.target
        if target.ndim == 2:
            said = jnp.take_along_axis(log_q, target[..., None], -1)[..., 0]
        else:
            said = (target * log_q).sum(-1)
        return -(self.weight * said).sum() / self.weight.sum()


class Source(NamedTuple):
    """What is read: `draw(key, arrays)` is a batch, `held` is to be judged by."""

    vocabulary: int
    draw: Callable[[Array, Any], Text]
    arrays: Any
    held: dict[str, Text]
    what: str
    entropy: float = math.nan
    """Nats per token that counts, where it is known."""


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


def zipf(exponent: float, tokens: int, judged: int, seed: int) -> Source:
    """Contexts of a Zipf law. The target is the law of what follows, not a draw.

    All of the first contexts are judged, and of the others a sample with their mass.
    """
    rng = np.random.default_rng([seed, 1])
    source, batch = (
        zipf_contexts(rng, exponent, SYMBOLS**DIGITS, SYMBOLS),
        tokens // DIGITS,
    )
    count, last = len(source.p), np.eye(DIGITS, dtype=np.float32)[-1]
    # From the tail on, whose probabilities have no digits beside 1.
    laws = source.law.astype(np.float32), source.p[::-1].cumsum().astype(np.float32)

    def text(chosen: Any, law: Any, mass: Any) -> Text:
        digits = chosen[:, None] // SYMBOLS ** np.arange(DIGITS)[::-1] % SYMBOLS
        target = law[chosen][:, None].repeat(DIGITS, 1)
        return Text(digits, target, mass[:, None] * last)

    def draw(key: Array, laws: tuple[Array, Array]) -> Text:
        coarse, fine = jax.random.uniform(key, (2, batch))
        from_end = jnp.searchsorted(laws[1], coarse + fine * 2.0**-23)
        return text((count - 1 - from_end).clip(min=0), laws[0], jnp.ones(batch))

    some = rng.choice(np.arange(judged, count), judged, replace=False)
    chosen = np.append(np.arange(judged), some)
    tail = np.full(judged, source.p[judged:].mean() * (count - judged) / judged)
    mass = np.append(source.p[:judged], tail)
    # The entropy is that of the judged, or the KL would be off by the sample's.
    entropy = float(mass @ source.entropies[chosen] / mass.sum())
    held = {"held out": text(chosen, laws[0], mass.astype(np.float32))}
    return Source(SYMBOLS, draw, laws, held, f"{count:,} contexts", entropy)


def pictures(name: str, side: int, tokens: int, judged: int) -> Source:
    """Gray images of a data set, or of its stand-in where it was not fetched."""
    parts = [load(name, part, allow_synthetic=True) for part in ("train", "test")]
    top = (LEVELS - 1) / (parts[0].levels - 1)
    small = [np.rint(shrunk(one.images, side) * top).astype(np.int32) for one in parts]
    train, test = (rows(x.reshape(len(x), -1)) for x in small)
    held = {"held out": Text(*(x[:judged] for x in test))}
    stand_in = " (a stand-in)" * parts[0].manifest["synthetic"]
    what = f"{len(train.tokens):,} images{stand_in}"
    return Source(LEVELS, drawn(max(1, tokens // side**2)), train, held, what)


def code(length: int, tokens: int, judged: int) -> Source:
    """Bytes of the standard library's sources; every 64th file is held out."""
    folder, batch = source_files("json")[0].parents[1], max(1, tokens // length)
    files = sorted(p for depth in ("*.py", "*/*.py") for p in folder.glob(depth))
    files = [path for path in files if "site-packages" not in path.parts]
    kept = [path for i, path in enumerate(files) if i % 64]
    parts = (
        b"".join(path.read_bytes() for path in some) for some in (kept, files[::64])
    )
    train, held = (np.frombuffer(part, np.uint8).astype(np.int32) for part in parts)
    weight = lambda count: np.ones((count, length), np.float32)  # noqa: E731

    def draw(key: Array, text: Array) -> Text:
        start = jax.random.randint(key, (batch, 1), 0, len(text) - length)
        read = text[start + jnp.arange(length + 1)]
        return Text(read[:, :-1], read[:, 1:], weight(batch))

    start = np.linspace(0, len(held) - length - 1, judged).astype(int)[:, None]
    windows = held[start + np.arange(length + 1)]
    said = {"held out": Text(windows[:, :-1], windows[:, 1:], weight(judged))}
    return Source(256, draw, train, said, f"{len(train):,} bytes")


def carries(digits: int, longest: int, tokens: int, judged: int) -> Source:
    """Sums whose carries run over `longest` digits at most; longer ones are judged."""
    asked, answers = sums(digits, 400_000)
    order = np.random.default_rng(0).permutation(len(asked))
    every = np.hstack([asked, answers])[order].astype(np.int32)
    most, counts = longest_carry(asked)[order], np.arange(every.shape[1]) >= 2 * digits

    def text(chosen: np.ndarray) -> Text:
        plain = rows(every[chosen])
        return plain._replace(weight=plain.weight * counts)

    short = np.flatnonzero(most <= longest)
    held = {"held out": text(short[:judged])}
    for length in range(longest + 1, digits + 1):
        held[f"carries of {length}"] = text(np.flatnonzero(most == length)[:judged])
    train = text(short[judged:])
    draw = drawn(max(1, tokens // every.shape[1]))
    return Source(10, draw, train, held, f"{len(train.tokens):,} sums", 0.0)


class Learner(NamedTuple):
    """A transformer of the standard shape and how it is trained."""

    width: int
    depth: int
    rate: float
    """Adam's after 5 % of the steps; it is constant from then on."""
    stops: tuple[int, ...]

    def made(self, vocabulary: int, length: int) -> tuple[Any, Any]:
        """`apply` and `initial`; 12 depth width^2 weights between the embeddings."""
        return transformer(
            TransformerConfig(
                vocabulary, self.width, self.depth, max(2, self.width // 64),
                max_length=length, mlp="plain", activation="gelu", rope=None,
                tied=False,
            )
        )  # fmt: skip

    def watched(self, loss: Any, judge: Any, params: PyTree, key: Array) -> PyTree:
        """What `judge` says of the averaged weights at all stops.

        `loss(params, key, n)` is that of step n, from 0.
        """
        warm = optax.linear_schedule(0, self.rate, max(1, self.stops[-1] // 20))
        rule = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(warm, b2=0.98))

        def step(params: PyTree, memory: Any, key: Array) -> Any:
            n, mean = memory
            share = 1 / jnp.maximum(1, 0.1 * n)  # of the weights before this step
            mean = jax.tree.map(lambda m, p: m + share * (p - m), mean, params)
            return loss(params, key, n), (n + 1, jax.lax.stop_gradient(mean))

        start, seen = (jnp.zeros((), int), params), lambda p, memory: judge(memory[1])
        options: Any = {"key": key, "memory": start, "watch": seen}
        return descended(step, params, rule, self.stops, **options)


def curve(source: Source, learner: Learner, seed: int) -> dict[str, Any]:
    """Learning curve of one size: losses by held-out text, weights and compute."""
    keys = jax.random.split(jax.random.key(seed), 3)
    shape = jax.eval_shape(source.draw, keys[0], source.arrays).tokens.shape
    apply, initial = learner.made(source.vocabulary, shape[1])
    params = initial(keys[1])

    def run(params: PyTree, arrays: Any, held: dict[str, Text]) -> PyTree:
        def loss(params: PyTree, key: Array, n: Array) -> Array:
            text = source.draw(key, arrays)
            return text.loss(apply(params, text.tokens))

        judge = lambda p: {k: t.loss(apply(p, t.tokens)) for k, t in held.items()}  # noqa: E731
        return learner.watched(loss, judge, params, keys[2])

    arrays = jax.tree.map(jnp.asarray, (source.arrays, source.held))
    found = jax.jit(run)(params, *arrays)
    size, seen = (
        float(non_embedding(params)),
        math.prod(shape) * np.array(learner.stops),
    )
    flops = np.asarray(training_flops(size, seen.astype(float)), float)
    losses = {name: np.asarray(found[name], float) for name in source.held}
    return {
        "N": size,
        "C": flops,
        "loss": losses,
        "H": source.entropy,
        "what": source.what,
    }


def captions(
    learner: Learner, tokens: int, judged: int, seeds: tuple[int, ...]
) -> dict[str, Float[np.ndarray, "mixing seeds stops"]]:
    """Nats of images with their captions and with blank ones, and of captions.

    From half of the steps on, every second caption is blank, in the first of two runs.
    """
    ends = jnp.asarray(stats.norm.ppf(np.linspace(0, 1, CAPTION_LEVELS + 1)[1:-1]))
    blank, begin = CAPTION_LEVELS, CAPTION_LEVELS + 1
    is_image = jnp.arange(2 * PAIRS) >= PAIRS
    apply, initial = learner.made(CAPTION_LEVELS + 2, 2 * PAIRS)
    batch, steps = tokens // (2 * PAIRS), learner.stops[-1]

    def draw(key: Array, share: Any, batch: int) -> Text:
        keys = jax.random.split(key)
        x, noise = jax.random.normal(keys[0], (2, batch, PAIRS))
        y = CORRELATION * x + math.sqrt(1 - CORRELATION**2) * noise
        said = jnp.searchsorted(ends, jnp.concatenate([x, y], 1))
        hidden = jax.random.uniform(keys[1], (batch, 1)) < share
        seen = jnp.where(hidden & ~is_image, blank, said)
        read = jnp.pad(seen, ((0, 0), (1, 0)), constant_values=begin)[:, :-1]
        return Text(read, said, jnp.where(hidden, is_image, True) * 1.0)

    def run(mixing: Array, seed: Array) -> PyTree:
        keys = jax.random.split(jax.random.key(seed), 3)

        def loss(params: PyTree, key: Array, n: Array) -> Array:
            text = draw(key, jnp.where(n >= steps // 2, mixing, 0.0), batch)
            return text.loss(apply(params, text.tokens))

        def judge(params: PyTree) -> dict[str, Array]:
            def nats(share: float, counts: Array) -> Array:
                text = draw(keys[2], share, judged)
                weight = jnp.broadcast_to(counts * 1.0, text.tokens.shape)
                logits = apply(params, text.tokens)
                return text._replace(weight=weight).loss(logits) * PAIRS

            asked = {"captioned": (0, is_image), "blank": (1, is_image)}
            return {k: nats(*v) for k, v in (asked | {"text": (0, ~is_image)}).items()}

        return learner.watched(loss, judge, initial(keys[0]), keys[1])

    across = jax.vmap(jax.vmap(run, (None, 0)), (0, None))
    found = jax.jit(across)(jnp.array([0.5, 0.0]), jnp.array(seeds))
    return {name: np.asarray(v, float) for name, v in found.items()}


def subsets(
    source: Source, learner: Learner, counts: tuple[int, ...], seeds: tuple[int, ...]
) -> Float[np.ndarray, "counts seeds"]:
    """The least held-out loss on the way, of learners that had so many rows each."""
    draw = jax.eval_shape(source.draw, jax.random.key(0), source.arrays)
    apply, initial = learner.made(source.vocabulary, draw.tokens.shape[1])
    every, held = jax.tree.map(jnp.asarray, (source.arrays, source.held["held out"]))

    def run(count: Array, seed: Array) -> Array:
        keys = jax.random.split(jax.random.key(seed), 3)
        order = jax.random.permutation(keys[2], len(every.tokens))

        def loss(params: PyTree, key: Array, n: Array) -> Array:
            chosen = order[jax.random.randint(key, (len(draw.tokens),), 0, count)]
            text = Text(*(x[chosen] for x in every))
            return text.loss(apply(params, text.tokens))

        judge = lambda params: held.loss(apply(params, held.tokens))  # noqa: E731
        return learner.watched(loss, judge, initial(keys[0]), keys[1]).min()

    across = jax.vmap(jax.vmap(run, (None, 0)), (0, None))
    return np.asarray(jax.jit(across)(jnp.array(counts), jnp.array(seeds)), float)
