"""One decoder-only transformer for the Llama, Qwen and GPT-2 families.

`apply, initial = transformer(config)` gives a pure function and its initial values; see
`PureTransformer` for how it is called. The same parameters come in two layouts: a list
of layers, unrolled (decoding), and layers stacked on a leading axis, scanned
(training); `kljax.models.language.stacking` changes one into the other.

References: Vaswani et al. 2017, "Attention is all you need"; Touvron et al. 2023,
"Llama"; Radford et al. 2019, "Language models are unsupervised multitask learners".
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from kljax.models.attention import causal, nearest
from kljax.models.functional import PureModule, pure
from kljax.models.language.attention import Attention, Context
from kljax.models.language.cache import Cache
from kljax.models.language.checks import check_call, check_ids
from kljax.models.language.configuration import TransformerConfig
from kljax.models.language.rope import Rope, rotation
from kljax.models.language.sharding import for_lookup, on_examples
from kljax.models.language.stacking import is_stacked
from kljax.models.layers import MLP, NORMS, Dense, Table, looked_up, normal, wide
from kljax.models.mixture import Mixture, Routing
from kljax.typing import Array, Bool, Float, Int, PyTree

__all__ = ["PureTransformer", "Rope", "Transformer", "TransformerConfig", "transformer"]


class Layer(nnx.Module):
    """`x + attention(norm(x))`, then `x + mlp(norm(x))`."""

    def __init__(self, config: TransformerConfig, index: int, *, rngs: nnx.Rngs):
        norm = NORMS[config.norm]
        self.attention_norm = norm(config.width, config.norm_eps)
        self.attention = Attention(config, rngs=rngs)
        self.mlp_norm = norm(config.width, config.norm_eps)
        options: dict[str, Any] = {
            "bias": config.mlp_bias,
            "shrink": (2 * config.depth) ** -0.5,
            "rngs": rngs,
        }
        inside = (config.mlp, config.activation)
        if config.is_mixture(index):
            self.mlp = Mixture(
                config.width,
                config.expert_hidden,
                *inside,
                count=config.experts,
                chosen=config.experts_per_token,
                normalized=config.expert_sum,
                capacity_factor=config.capacity_factor,
                **options,
            )
        else:
            self.mlp = MLP(config.width, config.hidden, *inside, **options)

    def __call__(
        self, x: Float[Array, "b t d"], context: Context
    ) -> tuple[Float[Array, "b t d"], tuple[Array, Array], Routing | None]:
        """The layer's output, its keys and values, and what its router did."""
        attended, written = self.attention(self.attention_norm(x), context)
        x = x + attended
        inner, routing = self.mlp_norm(x), None
        if isinstance(self.mlp, Mixture):
            exact = context.memory is not None
            inner, routing = self.mlp(inner, context.where, exact=exact)
        else:
            inner = self.mlp(inner)
        return x + inner, written, routing


class Stack(nnx.Module):
    """Layers whose parameters have a leading axis: one period of the pattern."""

    def __init__(self, config: TransformerConfig, *, rngs: nnx.Rngs):
        period = config.moe_layers if config.experts else 1
        self.stacked = nnx.List([Layer(config, i, rngs=rngs) for i in range(period)])


class Transformer(nnx.Module):
    """Embedding, layers, final norm and head, as `PureTransformer` calls them.

    Args:
      config: sizes and choices.
      stacked: the structure with layers on a leading axis of their parameters; the
        values are then to be replaced by those of `stack_layers`.
      rngs: random streams for the initial values.

    Example:
      >>> config = TransformerConfig(vocab_size=97, width=32, depth=2, heads=4)
      >>> build = lambda tokens: Transformer(config, rngs=nnx.Rngs(0)).read(tokens)[0]
      >>> jax.eval_shape(build, jnp.ones((2, 5), int)).shape
      (2, 5, 32)
    """

    def __init__(
        self, config: TransformerConfig, *, stacked: bool = False, rngs: nnx.Rngs
    ):
        self.config = config
        if not config.tied:
            self.embedding = Table(config.vocab_size, config.width, rngs=rngs)
        if config.rope is None:
            self.positions = Table(config.max_length, config.width, rngs=rngs)
        self.layers = (
            Stack(config, rngs=rngs)
            if stacked
            else nnx.List([Layer(config, i, rngs=rngs) for i in range(config.depth)])
        )
        self.final_norm = NORMS[config.norm](config.width, config.norm_eps)
        self.head = Dense(
            config.width,
            config.vocab_size,
            bias=config.head_bias,
            init=normal(0.02),
            rngs=rngs,
        )

    def embed(self, tokens: Array, positions: Array, dtype: Any) -> Array:
        """Vectors of tokens (and of positions, where they are learned)."""
        if tokens.ndim == 3:  # vectors already
            x = tokens.astype(self.head.kernel[...].dtype)
        elif self.config.tied:
            # One array serves both ends; a strided read of few columns costs nothing.
            columns = for_lookup(self.head.kernel[...], 1)
            x = jnp.moveaxis(looked_up(columns, tokens, 1), 0, -1)
        else:
            x = looked_up(for_lookup(self.embedding.table[...], 0), tokens, 0)
        x = x.astype(x.dtype if dtype is None else dtype)
        if self.config.rope is None:
            x = x + self.positions(positions).astype(x.dtype)
        return x

    def logits(self, features: Float[Array, "*b d"]) -> Float[Array, "*b v"]:
        """The head, in float32 (float64 where the features are)."""
        out = jnp.matmul(
            features,
            self.head.kernel[...].astype(features.dtype),
            preferred_element_type=wide(features.dtype),
        )
        if self.config.head_bias:
            out = out + self.head.bias[...]
        cap = self.config.soft_cap
        return out if cap is None else cap * jnp.tanh(out / cap)

    def read(
        self, tokens, where=None, positions=None, cache=None, dtype=None, remat=False
    ) -> tuple[Float[Array, "b t d"], Cache | None, Routing | None]:
        """The hidden states after the final norm, the cache, what the routers did."""
        check_call(self.config, tokens, where, positions, cache)
        check_ids(self.config, tokens, where, positions)
        if cache is None:
            visible, found = causal(tokens.shape[1], where)
        else:
            counted = jnp.ones(tokens.shape[:2], bool) if where is None else where
            visible, found, cache = cache.advance(counted)
        positions = jnp.broadcast_to(
            found if positions is None else positions, tokens.shape[:2]
        )
        if where is not None:
            # What is not counted is read as token 0 at position 0: a row of NaN would
            # reach the others through weights of 0.
            counted = where if tokens.ndim == 2 else where[..., None]
            tokens = jnp.where(counted, tokens, 0)
            positions = jnp.where(where, positions, 0)
        x = on_examples(self.embed(tokens, positions, dtype))
        rope = self.config.rope
        turn = None if rope is None else rotation(rope, positions, self.config.head_dim)
        x, cache, routed = self.through(x, Context(visible, turn, where), cache, remat)
        return self.final_norm(x), cache, routed

    def through(
        self, x: Array, context: Context, cache: Cache | None, remat: bool
    ) -> tuple[Array, Cache | None, Routing | None]:
        """All layers: what comes out, the cache after them, what the routers did."""
        near = nearest(context.visible, self.config.window or context.visible.shape[-1])
        short = [self.config.is_windowed(i) for i in range(self.config.depth)]
        if isinstance(self.layers, Stack):
            if cache is not None:
                raise ValueError(
                    "a cache needs a list of layers, and params holds stacked ones; "
                    "call unstack_layers(params)"
                )
            x, routed = scanned(self.layers, x, context, (near, short), remat)
            return x, None, routed
        kept, routed = [], []
        for i, layer in enumerate(self.layers):
            own = context._replace(visible=near if short[i] else context.visible)
            if cache is None:
                x, routing = one_layer(layer, x, own, remat)
            else:
                start = cache.cursor - x.shape[1]
                memory = (cache.keys[i], cache.values[i], start)
                x, written, routing = layer(x, own._replace(memory=memory))
                kept.append(written)
            routed += [] if routing is None else [routing]
        if cache is not None:
            keys, values = zip(*kept, strict=True)
            cache = replace(cache, keys=keys, values=values)
        together = (
            jax.tree.map(lambda *each: jnp.stack(each), *routed) if routed else None
        )
        return x, cache, together


def one_layer(
    layer: Layer, x: Array, context: Context, remat: bool
) -> tuple[Array, Routing | None]:
    """One layer; with `remat` its inner values are computed again for gradients."""
    structure, state = nnx.split(layer)

    def run(state: PyTree, x: Array, context: Context) -> tuple[Array, Routing | None]:
        x, _, routing = nnx.merge(structure, state)(x, context)
        return on_examples(x), routing

    return (jax.checkpoint(run) if remat else run)(state, x, context)


def scanned(
    stack: Stack,
    x: Array,
    context: Context,
    window: tuple[Array, list[bool]],
    remat: bool,
) -> tuple[Array, Routing | None]:
    """All layers by one scanned program: a compilation of one period.

    `window`: what a token sees within the window, and which layers have it.
    """
    structure, state = nnx.split(stack)
    visible, (near, windowed) = context.visible, window
    windowed = jnp.array(windowed).reshape(-1, len(stack.stacked))

    def period(x: Array, scan: tuple[PyTree, Array]) -> tuple[Array, Routing | None]:
        state, short = scan
        routed = None
        for i, layer in enumerate(nnx.merge(structure, state).stacked):
            seen = visible if near is visible else jnp.where(short[i], near, visible)
            x, routing = one_layer(layer, x, context._replace(visible=seen), remat)
            routed = routed if routing is None else routing  # one mixture a period
        return x, routed

    return jax.lax.scan(period, x, (state, windowed))


@dataclass(frozen=True)
class PureTransformer(PureModule):
    """The transformer as a function of its parameters; hashable, as `PureModule` is.

    Attributes:
      config: sizes and choices.
      stacked: structure of the module whose layers are stacked.
    """

    stacked: nnx.GraphDef
    config: TransformerConfig

    def __call__(
        self,
        params: PyTree,
        tokens: Int[Array, "b t"] | Float[Array, "b t d"],
        where: Bool[Array, "b t"] | None = None,
        positions: Int[Array, "b t"] | None = None,
        *,
        cache: Cache | None = None,
        features: bool = False,
        dtype: Any = None,
        remat: bool = False,
        routing: bool = False,
    ) -> Any:
        """Logits of the next token at every token, in float32.

        Args:
          params: a nested dict of arrays, in either layout of the layers.
          tokens: ids below `vocab_size`. Inside a traced program, where values cannot
            be looked at, another id that counts makes its whole row NaN, gradients
            included; so does a position that no table has. Or vectors `[b, t, width]`.
          where: which tokens count; the others (padding on either side, of any id)
            are not read by anybody, take no position, and have meaningless logits.
            None: all.
          positions: the tokens' positions; None counts the tokens of every row.
          cache: what was read before; the block is written behind it.
          features: return the hidden states `[b, t, width]` after the final norm,
            which times `params["head"]["kernel"]` are the logits (before bias and
            cap), in place of the logits.
          dtype: of the computation, as `jnp.bfloat16`; None: that of the parameters.
          remat: keep one vector per token and layer for the gradient and compute the
            rest again.
          routing: also return what the routers of the mixtures did, a
            `kljax.models.mixture.Routing` (None without mixtures).

        Returns:
          Logits `[b, t, vocab]`; `(logits, cache)` with a cache, and with `routing`
          one more at the end.

        Raises:
          ValueError: a wrong shape or dtype, an id that is not in the vocabulary, more
            tokens than the context or the cache has room for, a cache with stacked
            layers.
        """
        module = self.module(params)
        x, cache, routed = module.read(tokens, where, positions, cache, dtype, remat)
        found = [x if features else module.logits(x)]
        found += [] if cache is None else [cache]
        found += [routed] if routing else []
        return tuple(found) if len(found) > 1 else found[0]

    def logits_at(
        self, params: PyTree, tokens: Int[Array, "b t"], place: Int[Array, "b m"]
    ) -> Float[Array, "b m v"]:
        """Logits at some tokens of every row alone: the head is dear."""
        features = self(params, tokens, features=True)
        picked = jnp.take_along_axis(features, place[..., None], axis=1)
        return self.logits(params, picked)

    def init_cache(self, batch: int, slots: int, dtype: Any = jnp.float32) -> Cache:
        """An empty cache for `batch` rows of `slots` tokens, padding included."""
        sizes = self.config
        shape = (batch, sizes.kv_heads, slots, sizes.head_dim)
        return Cache.empty(sizes.depth, shape, dtype, limit=sizes.max_length)

    def step(
        self,
        params: PyTree,
        inputs: Int[Array, "b t"] | Float[Array, "b t d"],
        cache: Cache,
        *,
        where: Bool[Array, "b t"] | None = None,
    ) -> tuple[Float[Array, "b t v"], Cache]:
        """Logits behind every input, and the cache with the block in it; see a call."""
        return self(params, inputs, where, cache=cache)

    def logits(
        self, params: PyTree, features: Float[Array, "*b d"]
    ) -> Float[Array, "*b v"]:
        """The logits of hidden states (bias and cap included), in float32."""
        return self.module(params).logits(features)

    def module(self, params: PyTree) -> Transformer:
        """The NNX module that holds the parameters."""
        structure = self.stacked if is_stacked(params) else self.graphdef
        return nnx.merge(structure, params)


def transformer(
    config: TransformerConfig,
) -> tuple[PureTransformer, Callable[[Array], dict]]:
    """The transformer's pure function and the jitted draw of its initial values.

    Args:
      config: sizes and choices.

    Returns:
      `apply`, to be called as `apply(params, tokens, ...)`, and `initial(key)`, whose
      layers are a list.

    Example:
      >>> config = TransformerConfig(vocab_size=97, width=32, depth=2, heads=4)
      >>> apply, initial = transformer(config)
      >>> params = initial(jax.random.key(0))
      >>> jax.jit(apply)(params, jnp.ones((2, 5), int)).shape
      (2, 5, 97)
      >>> sorted(params), sorted(params["layers"])
      (['final_norm', 'head', 'layers'], [0, 1])
    """
    listed, initial = pure(lambda rngs: Transformer(config, rngs=rngs))
    stack, _ = pure(lambda rngs: Transformer(config, stacked=True, rngs=rngs))
    return PureTransformer(listed.graphdef, stack.graphdef, config), initial
