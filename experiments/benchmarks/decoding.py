"""Decoding of a real language model: greedy steps, prefill, memory, loading.

Against `transformers` with the same float32 weights, one thread: run it pinned to one
core (`taskset -c 0 python -m experiments bench decoding`), for two of its threads on a
busy machine wait for one another. `generate` reads the prompt too. The floor of a step
is reading all weights once, or the arithmetic of all rows, whichever is longer.
"""

import dataclasses
import functools
import importlib.util
import os
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks.measuring import Contender, Floors, Group, Question, Reason
from kljax.decoding import Decoding, Sampling, generate
from kljax.models.files.pretrained import Pretrained, from_pretrained, save_pretrained
from kljax.models.functional import parameter_count
from kljax.models.language.transformer import TransformerConfig, transformer

__all__ = ["PRESETS", "QUESTIONS", "REASONS", "groups"]


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Which model, rows, and tokens."""

    model: str = "smollm2"
    batches: tuple[int, ...] = (1, 8)
    prompt: int = 64
    steps: int = 32
    slots: int = 192
    long_slots: int = 2048
    prefill: int = 512
    dtype: str = "float32"


PRESETS = {
    "smoke": Sizes("", (1, 2), 8, 4, 16, 32, 16),
    "cpu": Sizes(),
    "gpu": Sizes(batches=(1, 8, 64), steps=128, dtype="bfloat16"),
}
GREEDY = Sampling(temperature=0.0)
TINY = TransformerConfig(
    vocab_size=320, width=32, depth=2, heads=4, kv_heads=2, max_length=64
)


def _greedy(logits: jax.Array) -> jax.Array:
    """The first largest: a maximum and a comparison beat `argmax` on a CPU."""
    top = jnp.max(logits, axis=-1, keepdims=True)
    ids = jnp.arange(logits.shape[-1], dtype=jnp.int32)
    return jnp.min(jnp.where(logits == top, ids, logits.shape[-1] - 1), axis=-1)


def _steps(apply: Any, count: int, params: Any, cache: Any, token: Any) -> Any:
    """Greedy tokens by the bare model, `count` of them."""

    def step(_: Any, state: Any) -> Any:
        token, cache = state
        logits, cache = apply(params, token[:, None], cache=cache)
        return _greedy(logits[:, -1]), cache

    return jax.lax.fori_loop(0, count, step, (token, cache))[0]


def _prefill(apply: Any, params: Any, cache: Any, tokens: Any) -> Any:
    """Reads a prompt; only the last token's logits are wanted."""
    features, cache = apply(params, tokens, cache=cache, features=True)
    return apply.logits(params, features[:, -1]), cache


def _model(settings: Sizes) -> Pretrained:
    dtype = jnp.dtype(settings.dtype)
    if settings.model:
        return from_pretrained(settings.model, dtype=dtype)
    apply, initial = transformer(TINY)
    return Pretrained(TINY, apply, initial(jax.random.key(0)), None, (), 0, "random")


class _Peer:
    """The same weights in transformers, one thread."""

    def __init__(self, folder: str):
        import torch  # pyrefly: ignore[missing-import]
        import transformers  # pyrefly: ignore[missing-import]

        torch.set_num_threads(1)
        transformers.utils.logging.set_verbosity_error()
        transformers.utils.logging.disable_progress_bar()
        self.torch = torch
        self.cache = transformers.DynamicCache
        self.model = transformers.AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32
        ).eval()

    def read(self, tokens: np.ndarray) -> Any:
        """What the model remembers of a prompt."""
        with self.torch.no_grad():
            return self.model(
                self.torch.from_numpy(tokens), use_cache=True, logits_to_keep=1
            )

    def steps(self, count: int, tokens: np.ndarray) -> Callable[[], Any]:
        """Greedy steps from what is remembered, which is cut back after every call."""
        out = self.read(tokens)
        first, cache = out.logits[:, -1:].argmax(-1), out.past_key_values

        def call() -> Any:
            token = first
            with self.torch.no_grad():
                for _ in range(count):
                    out = self.model(token, past_key_values=cache, use_cache=True)
                    token = out.logits[:, -1:].argmax(-1)
            cache.crop(-count)
            return token.numpy()

        return call

    def generate(self, count: int, tokens: np.ndarray) -> Callable[[], Any]:
        """Its own loop, prompt included."""
        ids = self.torch.from_numpy(tokens)

        def call() -> Any:
            return self.model.generate(
                ids,
                attention_mask=self.torch.ones_like(ids),
                max_new_tokens=count,
                do_sample=False,
                eos_token_id=None,
                pad_token_id=0,
            ).numpy()

        return call


_MEMORY = """
import pathlib, sys
def now(field):
    status = pathlib.Path("/proc/self/status").read_text()
    return int(status.split(field + ":")[1].split()[0]) / 1024
{load}
loaded, peak = now("VmRSS"), now("VmHWM")
{step}
print(loaded, peak, now("VmRSS"))
"""
_OURS = (
    """
import jax, jax.numpy as jnp
from kljax.models.files.pretrained import from_pretrained
model = from_pretrained({source!r}, tokenizer=False)
""",
    """
cache = model.apply.init_cache({batch}, {slots})
run = jax.jit(lambda p, t, c: model.apply(p, t, cache=c), donate_argnums=2)
for _ in range(4):
    logits, cache = run(model.params, jnp.ones(({batch}, 1), jnp.int32), cache)
    logits.block_until_ready()
""",
)
_THEIRS = (
    """
import torch, transformers
torch.set_num_threads(1)
load = transformers.AutoModelForCausalLM.from_pretrained
model = load({source!r}, dtype=torch.float32).eval()
""",
    """
cache = transformers.DynamicCache()
with torch.no_grad():
    for _ in range(4):
        model(torch.ones(({batch}, 1), dtype=torch.long), past_key_values=cache)
""",
)


def _memory(parts: tuple[str, str], **options: Any) -> Mapping[str, float]:
    """MiB that a process of its own holds with the model loaded, and at most held."""
    load, step = (part.format(**options) for part in parts)
    code = _MEMORY.format(load=load, step=step)
    environment = os.environ | {"TRANSFORMERS_VERBOSITY": "error"}
    out = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
    )
    loaded, peak, stepped = map(float, out.stdout.split())
    return {
        "loaded MiB": loaded,
        "peak of loading / loaded": peak / loaded,
        "resident when decoding MiB": stepped,
    }


def _floor(rates: Floors, *, weights: int, size: int, rows: int, steps: int) -> float:
    reading = weights * size / rates.read
    return steps * max(reading, 2 * weights * rows / rates.gemm)


QUESTIONS = (
    Question("text", "Greedy text of SmolLM2-135M", ("greedy steps", "prefill")),
    Question("loading", "Loading its weights", ("loading",)),
)
REASONS = (
    Reason(
        "The file is mapped and read when its weights are first used; ours reads all "
        "of it and lays it out for the model.",
        groups="loading",
    ),
)


def groups(preset: str) -> Iterator[Group]:
    """Steps at every batch, over a long cache, a prefill, then memory and loading."""
    settings = PRESETS[preset]
    model = _model(settings)
    there = all(importlib.util.find_spec(x) for x in ("torch", "transformers"))
    compared = there and jax.default_backend() == "cpu"
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        peer = None
        if compared:
            save_pretrained(folder, model.config, model.params)
            peer = _Peer(folder)
        yield from _groups(settings, model, peer, pathlib.Path(folder))


def _groups(
    settings: Sizes, model: Pretrained, peer: _Peer | None, folder: pathlib.Path
) -> Iterator[Group]:
    config, apply = model.config, model.apply
    weights = parameter_count(model.params)
    dtype = jnp.dtype(settings.dtype)
    floor = functools.partial(_floor, weights=weights, size=dtype.itemsize)
    rng = np.random.default_rng(0)
    prefill = jax.jit(functools.partial(_prefill, apply))

    def prompt(rows: int, length: int) -> np.ndarray:
        return rng.integers(3, config.vocab_size, (rows, length))

    def remembered(tokens: np.ndarray, slots: int) -> tuple[Any, ...]:
        cache = apply.init_cache(len(tokens), slots, dtype)
        logits, cache = prefill(model.params, cache, jnp.asarray(tokens, jnp.int32))
        return model.params, cache, _greedy(logits)

    cases = [(rows, settings.slots) for rows in settings.batches]
    for rows, slots in [*cases, (settings.batches[0], settings.long_slots)]:
        tokens, steps = prompt(rows, settings.prompt), settings.steps
        given = remembered(tokens, slots)
        compare = [Contender("kljax", functools.partial(_steps, apply, steps))]
        if slots == settings.slots:
            compare += _loops(model, peer, steps, tokens)
        yield Group(
            "greedy steps",
            {"batch": rows, "slots": slots, "steps": steps, "dtype": dtype.name},
            lambda given=given: given,
            compare,
            functools.partial(floor, rows=rows, steps=steps),
        )
    yield _prefill_group(settings, model, peer, prompt, floor)
    if peer is not None:
        yield from _memory_groups(settings, model, folder, floor)


def _loops(
    model: Pretrained, peer: _Peer | None, steps: int, tokens: np.ndarray
) -> list[Contender]:
    """Steps of the peer, and the loops that users call, which read the prompt too."""
    given = jnp.asarray(tokens, jnp.int32)

    def ours() -> Any:
        settings = Decoding(steps, GREEDY)
        return generate([(model.apply, model.params)], given, settings).tokens

    own = Contender("kljax generate", ours, compiled=False, arguments=())
    if peer is None:
        return [own, Contender("transformers", None)]
    theirs = peer.generate(steps, tokens)
    made = theirs()[:, tokens.shape[1] :]
    same = float(np.mean(made == np.asarray(ours())))
    return [
        dataclasses.replace(own, notes=lambda: {"tokens as transformers'": same}),
        Contender(
            "transformers", peer.steps(steps, tokens), compiled=False, arguments=()
        ),
        Contender("transformers generate", theirs, compiled=False, arguments=()),
    ]


def _prefill_group(
    settings: Sizes, model: Pretrained, peer: _Peer | None, prompt: Any, floor: Any
) -> Group:
    length, dtype = settings.prefill, jnp.dtype(settings.dtype)
    tokens = prompt(1, length)
    cache = model.apply.init_cache(1, length, dtype)
    given = model.params, cache, jnp.asarray(tokens, jnp.int32)
    run = functools.partial(_prefill, model.apply)
    ours = Contender("kljax", run)
    if peer is not None:
        want = peer.read(tokens).logits[:, -1].numpy()
        error = np.abs(np.asarray(jax.jit(run)(*given)[0]) - want).max()
        error = float(error / np.abs(want).max())
        ours = dataclasses.replace(ours, error=lambda: {"of largest logit": error})
    call = None if peer is None else functools.partial(peer.read, tokens)
    return Group(
        "prefill",
        {"batch": 1, "tokens": length, "dtype": dtype.name},
        lambda: given,
        [ours, Contender("transformers", call, compiled=False, arguments=())],
        functools.partial(floor, rows=length, steps=1),
    )


def _memory_groups(
    settings: Sizes, model: Pretrained, folder: pathlib.Path, floor: Any
) -> Iterator[Group]:
    """Loading is timed here; memory is looked at in processes of their own."""
    import torch  # pyrefly: ignore[missing-import]
    import transformers  # pyrefly: ignore[missing-import]

    def ours(source: str) -> Callable[[], Any]:
        return lambda: from_pretrained(source, tokenizer=False).params

    def theirs() -> Any:
        load = transformers.AutoModelForCausalLM.from_pretrained
        return load(folder, dtype=torch.float32)

    sources = {"kljax": str(folder)}
    if settings.model:
        sources[f"kljax, {settings.model} as fetched"] = settings.model
    for rows in settings.batches:
        options = {"batch": rows, "slots": settings.slots}
        compare = [
            Contender(
                name,
                ours(source),
                compiled=False,
                arguments=(),
                notes=functools.partial(_memory, _OURS, source=source, **options),
            )
            for name, source in sources.items()
        ]
        compare.append(
            Contender(
                "transformers",
                theirs,
                compiled=False,
                arguments=(),
                notes=functools.partial(
                    _memory, _THEIRS, source=str(folder), **options
                ),
            )
        )
        yield Group(
            "loading",
            {"batch": rows, "weights": parameter_count(model.params)},
            lambda: (),
            compare,
            functools.partial(floor, rows=1, steps=1),
        )
