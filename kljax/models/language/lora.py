"""Low-rank adapters, and several of them at once on shared weights.

A dense map `x W` becomes `x W + (x A) B`, with `A` `[in, rank]` and `B` `[rank, out]`:
the adapter. Parameters stay a nested dict with one more entry,

    {**params, "lora": {"layers": {0: {"attention": {"query": {"down": A, "up": B}}}}}}

so that training can take the gradient in `params["lora"]` alone.

Reference: Hu et al. 2022, "LoRA: low-rank adaptation of large language models".
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from kljax.arguments import whole
from kljax.models.language.cache import Cache
from kljax.models.language.stacking import is_stacked
from kljax.models.language.task_arithmetic import check_alike
from kljax.models.language.transformer import PureTransformer, Transformer
from kljax.models.layers import Dense
from kljax.typing import Array, Key, PyTree

__all__ = [
    "Adapted",
    "AdaptedStack",
    "adapted",
    "init_adapter",
    "merge_adapter",
    "stack_adapters",
]

TARGETS = ("query", "key", "value", "output", "gate", "up", "down")


class LowRank(nnx.Module):
    """A dense map and its adapter; `rows` adapters take turns over the rows of `x`."""

    def __init__(self, dense: Dense, down: Array, up: Array, rows: int | None):
        self.dense = dense
        self.down, self.up = nnx.Param(down), nnx.Param(up)
        self.rows = rows

    def __call__(self, x: Array) -> Array:
        down, up = self.down[...].astype(x.dtype), self.up[...].astype(x.dtype)
        if self.rows is None:
            return self.dense(x) + (x @ down) @ up
        each = x.reshape(-1, self.rows, *x.shape[1:])
        inner = jnp.einsum("bntd,ndr->bntr", each, down)
        change = jnp.einsum("bntr,nrd->bntd", inner, up)
        return self.dense(x) + change.reshape(*x.shape[:-1], -1)


@dataclass(frozen=True)
class Adapted(PureTransformer):
    """A transformer whose parameters hold an adapter under "lora"."""

    def module(self, params: PyTree) -> Transformer:
        """The NNX module with adapters around the dense maps that have one."""
        return with_adapters(super().module, params, None)


@dataclass(frozen=True)
class AdaptedStack(PureTransformer):
    """Several adapters on shared weights, run together; see `adapted`.

    Logits are `[b, t, n, vocab]`. The weights are read once: the n × b rows of tokens
    go through the shared maps as one batch. `config` is that of the caches, which hold
    the keys of all n: n times the heads.
    """

    count: int

    def module(self, params: PyTree) -> Transformer:
        """The NNX module for rows repeated `count` times."""
        return with_adapters(super().module, params, self.count)

    def __call__(
        self, params, tokens, where=None, positions=None, *, cache=None, **options
    ) -> Any:
        """Logits (or features) `[b, t, n, ...]`; arguments as for one transformer."""
        n = self.count

        def rows(x: Array | None) -> Any:
            return None if x is None else jnp.repeat(x, n, axis=0)

        wide = None if cache is None else _moved(cache, partial(_apart, n=n), rows)
        out = super().__call__(
            params, rows(tokens), rows(where), rows(positions), cache=wide, **options
        )
        found: list[Any] = list(out) if isinstance(out, tuple) else [out]
        found[0] = _together(found[0], n)
        if wide is not None:
            back = partial(_side_by_side, n=n)
            found[1] = _moved(found[1], back, lambda x: x[::n])
        return tuple(found) if len(found) > 1 else found[0]


def _moved(cache: Cache, of: Callable, rows: Callable) -> Cache:
    keys, values = (tuple(map(of, part)) for part in (cache.keys, cache.values))
    told = {name: rows(getattr(cache, name)) for name in ("valid", "next_position")}
    return replace(cache, keys=keys, values=values, **told)


def _apart(x: Array, n: int) -> Array:
    b, heads, slots, size = x.shape
    return x.reshape(b * n, heads // n, slots, size)


def _side_by_side(x: Array, n: int) -> Array:
    b, heads, slots, size = x.shape
    return x.reshape(b // n, heads * n, slots, size)


def _together(x: Array, n: int) -> Array:
    return jnp.moveaxis(x.reshape(-1, n, *x.shape[1:]), 1, 2)


def with_adapters(build: Any, params: PyTree, rows: int | None) -> Transformer:
    """The module of `params` without "lora", its dense maps replaced where adapted."""
    if "lora" not in params:
        raise ValueError(
            'params has no entry "lora"; add an adapter, {**params, "lora": adapter}, '
            "or use the transformer's own function"
        )
    if is_stacked(params):
        raise ValueError("adapters need a list of layers; call unstack_layers(params)")
    module = build({name: x for name, x in params.items() if name != "lora"})

    def walk(part: Any, adapters: Mapping) -> None:
        for name, inner in adapters.items():
            child = part[name] if isinstance(name, int) else getattr(part, name)
            if "down" in inner and isinstance(child, Dense):
                setattr(part, name, LowRank(child, inner["down"], inner["up"], rows))
            else:
                walk(child, inner)

    walk(module, params["lora"])
    return module


def adapted(apply: PureTransformer, count: int | None = None) -> PureTransformer:
    """The function of a transformer with an adapter, or with several at once.

    Args:
      apply: from `transformer` or `from_pretrained`.
      count: None for one adapter; else how many `stack_adapters` stacked.

    Returns:
      Called like `apply`, with `{**params, "lora": adapter}`. One adapter: logits
      `[b, t, vocab]`. Several: `[b, t, count, vocab]`; as one of the models of
      `kljax.decoding.generation` it stands for the base and all experts.

    Raises:
      ValueError: `count` below 1.

    Example:
      >>> from kljax.models.language.transformer import TransformerConfig, transformer
      >>> config = TransformerConfig(vocab_size=97, width=32, depth=1, heads=4)
      >>> apply, initial = transformer(config)
      >>> params = initial(jax.random.key(0))
      >>> one = init_adapter(jax.random.key(1), params, rank=2)
      >>> both = {**params, "lora": stack_adapters([one], base=True)}
      >>> adapted(apply, 2)(both, jnp.ones((3, 5), int)).shape
      (3, 5, 2, 97)
    """
    fields = {"graphdef": apply.graphdef, "stacked": apply.stacked}
    if count is None:
        return Adapted(**fields, config=apply.config)
    whole("count", count)
    config = replace(
        apply.config,
        heads=apply.config.heads * count,
        kv_heads=apply.config.kv_heads * count,
    )
    return AdaptedStack(**fields, config=config, count=count)


def init_adapter(
    key: Key[Array, ""],
    params: PyTree,
    rank: int,
    *,
    targets: Sequence[str] = TARGETS,
    scale: float = 1.0,
) -> dict:
    """An adapter that changes nothing yet: `A` normal, `B` zero.

    Args:
      key: random key of `A`.
      params: of a transformer, layers as a list.
      rank: of the change, at least 1.
      targets: names of the maps to adapt, of the attention and of plain or gated MLPs.
      scale: `A` has standard deviation `scale / sqrt(in)`; LoRA's α/r is part of it.

    Returns:
      A nested dict for `{**params, "lora": adapter}`.

    Raises:
      ValueError: a rank below 1, or no map of these names.

    Example:
      >>> dense = {"kernel": jnp.ones((4, 6))}
      >>> params = {"layers": {0: {"attention": {"query": dense}}}}
      >>> adapter = init_adapter(jax.random.key(0), params, rank=2)
      >>> adapter["layers"][0]["attention"]["query"]["up"].shape
      (2, 6)

    References:
      Hu et al. 2022, section 4.1.
    """
    whole("rank", rank)
    if is_stacked(params):
        raise ValueError("adapters need a list of layers; call unstack_layers(params)")
    found: dict[tuple, Array] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(params["layers"]):
        names = tuple(entry.key for entry in path)
        if names[-2] in targets and names[-1] == "kernel" and leaf.ndim == 2:
            found[names[:-1]] = leaf
    if not found:
        raise ValueError(f"targets: no map is called one of {', '.join(targets)}")
    adapter: dict = {}
    for i, (names, kernel) in enumerate(sorted(found.items(), key=str)):
        size_in, size_out = kernel.shape
        draw = jax.random.normal(jax.random.fold_in(key, i), (size_in, rank))
        here = adapter.setdefault("layers", {})
        for name in names:
            here = here.setdefault(name, {})
        here["down"] = scale * size_in**-0.5 * draw
        here["up"] = jnp.zeros((rank, size_out))
    return adapter


def merge_adapter(params: PyTree, adapter: PyTree) -> dict:
    """Plain parameters with `W + A B` in place of `W`.

    Args:
      params: of a transformer, layers as a list; an entry "lora" is left out.
      adapter: one, not a stack.

    Returns:
      A new dict, in the dtypes of `params`.

    Example:
      >>> dense = {"kernel": jnp.zeros((1, 1))}
      >>> params = {"layers": {0: {"mlp": {"up": dense}}}}
      >>> ab = {"down": jnp.full((1, 1), 2.0), "up": jnp.full((1, 1), 3.0)}
      >>> merged = merge_adapter(params, {"layers": {0: {"mlp": {"up": ab}}}})
      >>> merged["layers"][0]["mlp"]["up"]["kernel"].tolist()
      [[6.0]]
    """

    def merged(here: Any, change: Any) -> Any:
        if "down" in change and "kernel" in here:
            kernel = here["kernel"]
            moved = kernel + change["down"] @ change["up"]
            return {**here, "kernel": moved.astype(kernel.dtype)}
        inner = {name: merged(here[name], part) for name, part in change.items()}
        return {**here, **inner}

    plain = {name: x for name, x in params.items() if name != "lora"}
    return merged(plain, adapter)


def stack_adapters(adapters: Sequence[PyTree], *, base: bool = False) -> PyTree:
    """Adapters of one shape on a leading axis, for `adapted(apply, count)`.

    Args:
      adapters: at least one; all of one rank, on the same maps.
      base: put an adapter that changes nothing first, so that the stack holds the base
        model and its experts in the order that `kljax.decoding.Fusion` takes them.

    Returns:
      The stack; `count` is the number of adapters, one more with `base`.

    Raises:
      ValueError: no adapter, or shapes that differ.

    Example:
      >>> one = {"down": jnp.ones((4, 2)), "up": jnp.ones((2, 6))}
      >>> stack_adapters([one, one], base=True)["up"].shape
      (3, 2, 6)
    """
    if not adapters:
        raise ValueError("adapters is empty; expected at least one")
    check_alike("adapters", adapters, adapters[0])
    nothing = [jax.tree.map(jnp.zeros_like, adapters[0])] if base else []
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *nothing, *adapters)
