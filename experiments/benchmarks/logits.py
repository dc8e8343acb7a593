"""Divergences of logits: value, value with gradient in the model's logits, gradient.

Peers in their best documented form, both sides as arguments: optax with probability and
with log targets, distrax, torch compiled for each size (eager where JAX is), the
generalized JS formula of GKD in JAX and in torch, and plain JAX: log-softmax of both,
then the definition. The same definition in float64 NumPy is what errors are against.
"""

import dataclasses
import functools
import importlib.util
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks import cores, definitions, torch_peers
from experiments.benchmarks.measuring import Contender, Floors, Group, Question, Reason
from kljax.divergences import divergence, names

__all__ = ["PRESETS", "QUESTIONS", "REASONS", "groups"]


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Rows and outcomes of what is timed; `memory` is compiled, not run."""

    sizes: tuple[tuple[int, int], ...]
    memory: tuple[tuple[int, int], ...] = ()
    gradients: tuple[tuple[int, int], ...] = ()
    """Of the gradient without the value."""
    others: tuple[tuple[int, int], ...] = ()
    """Of all divergences but KL and JS."""
    eager: tuple[tuple[int, int], ...] = ()
    """Where nothing is compiled."""
    called: tuple[tuple[int, int], ...] = ()
    """Through `jax.jit`: what a call costs that has little to do."""
    cores: tuple[tuple[int, int], ...] = ()
    """By the wall clock, on one core and on two."""
    dtype: str = "float32"
    error_width: int = 32768
    torch: bool = True
    """Compiled, ten seconds for each size and form."""


_CPU = ((8, 50), (32, 1000), (256, 2048), (256, 8192), (64, 32768), (512, 32768))
_LARGE = ((256, 131072), (2048, 32768))
PRESETS = {
    "smoke": Sizes(((32, 256), (64, 256)), error_width=256, torch=False),
    "cpu": Sizes(
        _CPU + _LARGE,
        memory=((8192, 32768),),
        gradients=((256, 2048), (512, 32768)),
        others=((256, 2048),),
        eager=((8, 50),),
        called=((1, 8),),
        cores=((128, 32768), (2048, 32768)),
    ),
    "gpu": Sizes(
        ((1024, 128256), (8192, 128256)),
        memory=((32768, 128256),),
        gradients=((8192, 128256),),
        others=((8192, 128256),),
        dtype="bfloat16",
    ),
}

# ------------------------------------------------------------------ errors


@functools.cache
def _looked_at(name: str, width: int) -> Mapping[str, tuple[np.ndarray, ...]]:
    """8 rows at three sizes of the divergence and two offsets, and their values."""
    rng = np.random.default_rng(0)
    base = rng.normal(size=(8, width)) * 2
    noise = rng.normal(size=base.shape)
    found = {}
    for scale in (1.0, 1e-2, 1e-3):
        for offset in (0.0, 1e4):
            p = base.astype(np.float32)
            q = (base + scale * noise + offset).astype(np.float32)
            want = definitions.exact(name, p, q)
            label = f"{np.median(want):.0e}" + (" at 1e4" if offset else "")
            found[label] = p, q, want
    return found


def _errors(name: str, width: int, function: Callable) -> Mapping[str, float]:
    """Worst relative error of 8 rows, by the size of the divergence."""
    return {
        label: float(np.max(np.abs(np.asarray(function(p, q), np.float64) / want - 1)))
        for label, (p, q, want) in _looked_at(name, width).items()
    }


# ------------------------------------------------------------------ contenders


def _optax(log_targets: bool) -> Callable | None:
    if importlib.util.find_spec("optax") is None:
        return None
    import optax

    def of(p, q):
        predictions = jax.nn.log_softmax(q)
        if log_targets:
            target = jax.nn.log_softmax(p)
            return optax.losses.kl_divergence_with_log_targets(predictions, target)
        return optax.losses.kl_divergence(predictions, jax.nn.softmax(p))

    return of


def _distrax() -> Callable | None:
    if importlib.util.find_spec("distrax") is None:
        return None
    with warnings.catch_warnings():  # what it imports is deprecated here and there
        warnings.simplefilter("ignore")
        import distrax  # pyrefly: ignore[missing-import]

    return lambda p, q: distrax.Categorical(p).kl_divergence(distrax.Categorical(q))


def _functions(name: str) -> dict[str, Callable | None]:
    """Each is called with both logits and returns one value a row."""
    plain = functools.partial(definitions.plain, name)
    found: dict[str, Callable | None] = {
        "kljax": functools.partial(divergence, divergence=name),
        "GKD formula" if name == "jensen_shannon" else "plain JAX": plain,
    }
    if name == "forward_kl":
        found["optax"] = _optax(False)
        found["optax, log targets"] = _optax(True)
        found["distrax"] = _distrax()
    return found


def _total(function: Callable) -> Callable:
    return lambda p, q: jnp.sum(function(p, q))


def _value_and_gradient(function: Callable) -> Callable:
    total = _total(function)
    return lambda p, q: jax.value_and_grad(total, 1)(p, q)


def _gradient(function: Callable) -> Callable:
    total = _total(function)
    return lambda p, q: jax.grad(total, 1)(p, q)


_FORMS = {
    "value": (_total, 2, 0),
    "value+grad": (_value_and_gradient, 4, 1),
    "gradient": (_gradient, 4, 1),
}
"""What is made of one, how often it reads both sides in all, and writes one."""


def _logits(rows: int, width: int, dtype: Any) -> tuple[jax.Array, jax.Array]:
    keys = jax.random.split(jax.random.key(0))
    p = 2 * jax.random.normal(keys[0], (rows, width))
    q = p + jax.random.normal(keys[1], (rows, width))
    return p.astype(dtype), q.astype(dtype)


def _floor(form: str, items: int, itemsize: int, rates: Floors) -> float:
    # Both sides read, and two exponentials an element, each way; on an accelerator the
    # exponentials hide behind the bytes.
    _, reads, writes = _FORMS[form]
    size = items * itemsize
    moved = reads * size / rates.read + writes * size / rates.write
    return max(moved, reads * items / rates.exp)


def _group(
    settings: Sizes,
    name: str,
    form: str,
    size: tuple[int, int],
    *,
    timed: bool = True,
    look: bool = False,
    eager: bool = False,
) -> Group:
    rows, width = size
    dtype = jnp.dtype(settings.dtype)
    made = functools.partial(_logits, rows, width, dtype)
    errors = functools.partial(_errors, name, settings.error_width)
    build = _FORMS[form][0]
    compared = []
    for who, function in _functions(name).items():
        if function is None:
            compared.append(Contender(who, None))
            continue
        error = functools.partial(errors, jax.jit(function)) if look else None
        compared.append(Contender(who, build(function), not eager, error))
    torch = eager or (settings.torch and timed and name in torch_peers.ROWS)
    if torch and dtype == jnp.float32 and form != "gradient":
        compared.append(
            torch_peers.logits(
                name,
                made,
                gradient=form != "value",
                compiled=not eager,
                errors=errors if look else None,
            )
        )
    return Group(
        f"{name} {form}" + ", eager" * eager,
        {"N": rows, "V": width, "dtype": dtype.name},
        made,
        compared,
        functools.partial(_floor, form, rows * width, dtype.itemsize),
        timed,
    )


def _called(name: str, form: str, size: tuple[int, int]) -> Group:
    """Of whole calls: Python, dispatch and all, beside one that computes nothing."""

    def bare(p, q):
        return p[0, 0] if form == "value" else (p[0, 0], q)

    made = functools.partial(_logits, *size, jnp.float32)
    build = _FORMS[form][0]
    compared = {k: build(f) for k, f in _compared_with_plain(name).items()}
    return Group(
        f"{name} {form}, called",
        {"N": size[0], "V": size[1]},
        made,
        [
            Contender(who, jax.jit(function), compiled=False, peer=who != "bare call")
            for who, function in {**compared, "bare call": bare}.items()
        ],
        functools.partial(_floor, form, size[0] * size[1], 4),
    )


def _compared_with_plain(name: str) -> dict[str, Callable]:
    chosen = list(_functions(name).items())[:2]
    return {who: function for who, function in chosen if function is not None}


def on_cores(rows: int, width: int) -> tuple[dict[str, Callable], Any]:
    """What is compared on one core and on two, by name; for `cores.times`."""
    functions = {
        f"{name} {form}, {who}": _FORMS[form][0](function)
        for name in _MAIN
        for form in _SHOWN
        for who, function in _compared_with_plain(name).items()
    }
    return functions, _logits(rows, width, jnp.float32)


def _on_cores(name: str, form: str, size: tuple[int, int]) -> Group:
    source = f"{__name__}:{on_cores.__name__}"
    title, names = f"{name} {form}", list(_compared_with_plain(name))

    cpu: dict[str, float] = {}

    def taken(budget: float) -> dict[str, float]:
        wall = {}
        for label, count in (("", 2), (", one core", 1)):
            found = cores.times(count, source, size, budget)
            for who in names:
                wall[who + label], cpu[who + label] = found[f"{title}, {who}"]
        return wall

    def floor(rates: Floors) -> float:
        return _floor(form, size[0] * size[1], 4, rates) / 2

    # Named on the command line where there is one core.
    there = _FORMS[form][0] if cores.available() > 1 else None
    every = [*names, *(f"{who}, one core" for who in names)]
    return Group(
        f"{title}, two cores",
        {"N": size[0], "V": size[1]},
        functools.partial(_logits, *size, jnp.float32),
        [
            Contender(
                who,
                there,
                compiled=False,
                notes=lambda who=who: {"CPU ms": 1e3 * cpu[who]},
                peer=who in names,
            )
            for who in every
        ],
        floor,
        elsewhere=taken,
    )


_MAIN = ("forward_kl", "jensen_shannon")
_SHOWN = ("value", "value+grad")
_OTHERS = tuple(name for name in names() if name not in _MAIN)


def groups(preset: str) -> Iterator[Group]:
    """What is compared, one size after the other."""
    settings = PRESETS[preset]
    group = functools.partial(_group, settings)
    for name in _MAIN:
        for form in _SHOWN:
            for size in settings.sizes:
                look = form == "value" and size == settings.sizes[0]
                yield group(name, form, size, look=look)
            for size in settings.memory:
                yield group(name, form, size, timed=False)
        for size in settings.gradients:
            yield group(name, "gradient", size)
        for size in settings.eager:
            yield group(name, "value+grad", size, eager=True)
        for form in _SHOWN:
            yield from (_called(name, form, size) for size in settings.called)
            yield from (_on_cores(name, form, size) for size in settings.cores)
    for size in settings.others:
        for name in _OTHERS:
            yield group(name, "value+grad", size, look=True)


def _questions() -> Iterator[Question]:
    for name, title in zip(_MAIN, ("KL", "Jensen-Shannon")):
        titles = [f"{name} {form}" for form in _FORMS]
        yield Question(name, f"{title} of logits", titles)
    titles = [f"{name} value+grad" for name in _OTHERS]
    yield Question("others", "The other divergences of logits", titles)
    titles = [f"{name} value+grad, eager" for name in _MAIN]
    yield Question("eager", "Without compilation, as in a notebook", titles)
    both = [f"{name} {form}" for name in _MAIN for form in _SHOWN]
    titles = [f"{title}, called" for title in both]
    yield Question("called", "A call that has little to do", titles)
    titles = [f"{title}, two cores" for title in both]
    yield Question("cores", "On two cores, by the wall clock", titles)


QUESTIONS = tuple(_questions())
REASONS = (
    Reason(
        "JAX dispatches an uncompiled operation in tens of microseconds, torch in a "
        "few; a call of ours is more operations than the plain formula.",
        groups="*, eager",
    ),
    Reason(
        "The call is its dispatch and a few small operations, of which ours has more: "
        "one to three microseconds.",
        groups="*, called",
    ),
    Reason(
        "The call is its dispatch, twenty-odd microseconds; what is left over is the "
        "loop's set-up and the checks of accuracy in every row.",
        sizes="8×50",
    ),
    Reason(
        "Both read the logits twice, but torch holds a row's running sums in "
        "registers, in one loop over the row, where XLA writes blocks of masses to "
        "the cache and reads them back.",
        peers="torch, compiled",
    ),
    Reason(
        "Arrays of this size fit the cache, so that the plain form's temporaries cost "
        "little; ours takes more operations an element for 1e-5 in every row.",
        sizes="256×2048",
    ),
    Reason(
        "Too small for blocks to matter: ours takes more operations an element, for "
        "1e-5 in every row.",
        sizes="32×1000",
    ),
)
"""The first that fits is given."""
