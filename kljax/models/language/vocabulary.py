"""A language model on some of its vocabulary, and vocabularies that need no file."""

import dataclasses
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kljax.models.language.configuration import TransformerConfig
from kljax.typing import Int, PyTree

__all__ = ["Bytes", "Characters", "Kept", "restricted", "widened"]


def restricted(
    config: TransformerConfig, params: PyTree, ids: Int[np.ndarray, "v"]
) -> tuple[TransformerConfig, PyTree]:
    """The same model's law given that the token is one of `ids`.

    Rows of the embedding and columns of the head are taken, nothing else changes.

    Args:
      config: of the model.
      params: its parameters.
      ids: which outcomes are kept, in their new order.

    Returns:
      Configuration and parameters of the smaller model.

    Example:
      >>> from kljax.models.language.transformer import transformer
      >>> config = TransformerConfig(vocab_size=97, width=8, depth=1, heads=2)
      >>> params = jax.eval_shape(transformer(config)[1], jax.random.key(0))
      >>> params = jax.tree.map(lambda x: jnp.zeros(x.shape), params)
      >>> smaller, params = restricted(config, params, np.array([3, 5]))
      >>> smaller.vocab_size, params["head"]["kernel"].shape
      (2, (8, 2))
    """
    cut = {name: jnp.asarray(x)[..., ids] for name, x in params["head"].items()}
    params = {**params, "head": cut}
    if "embedding" in params:
        table = jnp.asarray(params["embedding"]["table"])[ids]
        params["embedding"] = {"table": table}
    config = dataclasses.replace(config, vocab_size=len(ids))
    return config, jax.tree.map(jnp.asarray, params)


def widened(
    config: TransformerConfig, params: PyTree, ids: Int[np.ndarray, "v"], whole: PyTree
) -> tuple[TransformerConfig, PyTree]:
    """The inverse of `restricted`: a model of all tokens, whose law on `ids` is this.

    The other tokens' rows of the embedding and columns of the head are those of another
    model of the same width: the one that it was restricted from, say.

    Args:
      config: of the restricted model.
      params: its parameters.
      ids: where its tokens stand among all.
      whole: parameters of the model that has all.

    Returns:
      Configuration and parameters of the larger model.

    Raises:
      ValueError: the two models are not of the same width.
    """
    width = np.shape(whole["head"]["kernel"])[0]
    if config.width != width:
        raise ValueError(
            f"whole has width {width}, config {config.width}: tokens that are lacking "
            "can come from a model of the same width alone"
        )

    def put(part: Any, every: Any) -> Any:
        return jnp.asarray(every, jnp.asarray(part).dtype).at[..., ids].set(part)

    head = {name: put(x, whole["head"][name]) for name, x in params["head"].items()}
    wide = {**params, "head": head}
    if "embedding" in params:
        tables = (one["embedding"]["table"] for one in (params, whole))
        wide["embedding"] = {"table": put(*(jnp.asarray(x).T for x in tables)).T}
    return dataclasses.replace(config, vocab_size=head["kernel"].shape[1]), wide


class Bytes:
    """One token per byte of UTF-8; 0 ends a text."""

    size = 256
    end = 0

    @staticmethod
    def encode(text: str) -> list[int]:
        """Ids of a text."""
        return list(text.encode())

    @staticmethod
    def decode(ids: Iterable[int]) -> str:
        """The text of ids; what is no UTF-8 is replaced."""
        return bytes(int(i) for i in ids).decode("utf-8", "replace")


class Characters:
    """Printable ASCII as ids 1 to 95, the end of a line as 0; others are dropped.

    Example:
      >>> vocabulary = Characters()
      >>> vocabulary.decode(vocabulary.encode("a\\nb"))
      'a\\nb'
    """

    size = 96
    end = 0
    """The id that ends an answer, and stands before a text."""

    def encode(self, text: str) -> list[int]:
        """Ids of a text."""
        ids = (0 if c == "\n" else ord(c) - 31 for c in text)
        return [i for i in ids if 0 <= i < self.size]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids."""
        return "".join("\n" if i == 0 else chr(int(i) + 31) for i in ids)


class Kept:
    """A tokenizer's ids, or the most frequent of them under new numbers.

    Args:
      tokenizer: of `kljax.models.files.tokenizer`.
      texts: what every id is kept of, such as lines of the tasks.
      corpus: text whose most frequent ids fill the rest.
      size: ids to keep; 0 keeps all.

    Attributes:
      kept: the tokenizer's ids in their new order, None where all are kept.
    """

    def __init__(
        self, tokenizer: Any, texts: Sequence[str], corpus: str, size: int = 0
    ):
        self.tokenizer = tokenizer
        self.kept: np.ndarray | None = None
        self.size = tokenizer.vocab_size
        if size:
            needed = {i for text in ["\n", *texts] for i in tokenizer.encode(text)}
            counts = Counter(tokenizer.encode(corpus))
            others = [i for i, _ in counts.most_common() if i not in needed]
            chosen = [*needed, *others[: max(0, size - len(needed))]]
            self.kept = np.sort(np.asarray(chosen))
            self.size = len(chosen)
            self.index = {int(i): n for n, i in enumerate(self.kept)}
        self.end = self.encode("\n")[-1]

    def encode(self, text: str) -> list[int]:
        """Ids of a text; those that were not kept are left out."""
        ids = self.tokenizer.encode(text)
        if self.kept is None:
            return ids
        return [self.index[i] for i in ids if i in self.index]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids."""
        plain = [int(i) for i in ids]
        if self.kept is not None:
            plain = [int(self.kept[i]) for i in plain]
        return self.tokenizer.decode(plain)
