"""What a decoder-only transformer looks like: one frozen description for all families.

Llama, SmolLM2, Mistral, Qwen2, Qwen3 (dense and with experts) and GPT-2 differ in the
fields below and in nothing else.
"""

from dataclasses import dataclass

from kljax.arguments import expect, whole
from kljax.models.language.rope import Rope
from kljax.models.layers import ACTIVATIONS, NORMS

__all__ = ["TransformerConfig"]

PLAIN = Rope()
MOST = 10_000
"""Layers, or experts of a layer, that a model may have; a larger number is no size."""
SIZES = (
    *("vocab_size", "depth", "kv_heads", "head_dim", "hidden", "expert_hidden"),
    *("max_length", "moe_layers"),
)
CHOICES = {"norm": NORMS, "mlp": ("gated", "plain"), "activation": ACTIVATIONS}


@dataclass(frozen=True)
class TransformerConfig:
    """Sizes and choices of `kljax.models.language.transformer.Transformer`; hashable.

    Args:
      vocab_size: tokens of the vocabulary.
      width: numbers per token between the layers.
      depth: layers.
      heads: attention heads.
      kv_heads: heads of keys and values, a divisor of `heads`; None is `heads`.
      head_dim: numbers per head; None is `width // heads`.
      hidden: width inside the MLP; None is `4 * width`.
      max_length: longest context in tokens.
      norm: "rms" or "layer".
      norm_eps: added to the mean square (variance) before the root.
      mlp: "gated", `down(activation(gate(x)) * up(x))`, or "plain",
        `down(activation(up(x)))`.
      activation: "silu", "gelu", "gelu_tanh" or "relu".
      rope: rotary positions; None is a learned table of `max_length` positions.
      qkv_bias: biases of query, key and value.
      output_bias: bias of the attention's output.
      mlp_bias: biases of the MLP.
      qk_norm: an RMS norm on every head of queries and keys, before the rotation.
      tied: tokens are looked up in the columns of the head.
      head_bias: bias of the head.
      soft_cap: logits become `c tanh(logits / c)`; None leaves them.
      experts: experts per mixture; 0 is an ordinary MLP everywhere.
      experts_per_token: how many of them a token goes to.
      expert_hidden: width inside an expert; None is `hidden`.
      moe_layers: every how manieth layer is a mixture: 2 is layers 1, 3, 5, ...
      expert_sum: the weights of a token's experts sum to 1; False: they are the
        router's probabilities among all experts, as Qwen3's default is.
      capacity_factor: an expert has room for so many times its even share of a call's
        tokens, and what is beyond is dropped, see `kljax.models.mixture`; None: room
        for all. With a cache nothing is ever dropped.
      window: how many of the last tokens, itself included, a token reads; None: all.
      window_layers: the layers that read no further than `window`; None: every layer.

    Raises:
      ValueError: a size or a choice that does not exist or does not fit another.

    Example:
      >>> config = TransformerConfig(vocab_size=97, width=32, depth=2, heads=4)
      >>> config.kv_heads, config.head_dim, config.hidden
      (4, 8, 128)
    """

    vocab_size: int
    width: int
    depth: int
    heads: int
    kv_heads: int = None  # pyrefly: ignore
    head_dim: int = None  # pyrefly: ignore
    hidden: int = None  # pyrefly: ignore
    max_length: int = 2048
    norm: str = "rms"
    norm_eps: float = 1e-5
    mlp: str = "gated"
    activation: str = "silu"
    rope: Rope | None = PLAIN
    qkv_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    tied: bool = True
    head_bias: bool = False
    soft_cap: float | None = None
    experts: int = 0
    experts_per_token: int = 0
    expert_hidden: int = None  # pyrefly: ignore
    moe_layers: int = 1
    expert_sum: bool = True
    capacity_factor: float | None = None
    window: int | None = None
    window_layers: tuple[int, ...] | None = None

    def __post_init__(self):
        for name in ("width", "heads"):
            whole(name, getattr(self, name))
        for name, value in (
            ("kv_heads", self.heads),
            ("head_dim", self.width // self.heads),
            ("hidden", 4 * self.width),
            ("expert_hidden", self.hidden or 4 * self.width),
        ):
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)
        for name in SIZES:
            whole(name, getattr(self, name))
        whole("depth", self.depth, most=MOST)
        whole("experts", self.experts, 0, MOST)
        for name, table in CHOICES.items():
            value = getattr(self, name)
            expect(name, value, value in table, f"expected one of {sorted(table)}")
        words = f"it must divide heads, {self.heads}"
        expect("kv_heads", self.kv_heads, not self.heads % self.kv_heads, words)
        paired = self.rope is None or not self.head_dim % 2
        expect("head_dim", self.head_dim, paired, "rotary positions need an even one")
        for name in ("soft_cap", "capacity_factor"):
            value = getattr(self, name)
            expect(name, value, value is None or value > 0, "expected above 0 or None")
        if self.window is not None:
            whole("window", self.window)
        layers = self.window_layers
        inside = self.window and all(0 <= layer < self.depth for layer in layers or ())
        words = f"expected layers below {self.depth}, the depth, and a window"
        expect("window_layers", layers, not layers or inside, words)
        some = not self.experts or 1 <= self.experts_per_token <= self.experts
        words = f"expected 1 to {self.experts}, the number of experts"
        expect("experts_per_token", self.experts_per_token, some, words)

    def is_mixture(self, layer: int) -> bool:
        """Whether that layer's MLP is a mixture of experts."""
        return self.experts > 0 and (layer + 1) % self.moe_layers == 0

    def is_windowed(self, layer: int) -> bool:
        """Whether that layer reads no further than the window."""
        chosen = self.window_layers
        return self.window is not None and (chosen is None or layer in chosen)
