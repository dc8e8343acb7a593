"""Published models on the part of their vocabulary that is needed."""

import pathlib
from collections.abc import Mapping, Sequence

from kljax.models.files.pretrained import Pretrained, check_one_tokenizer
from kljax.models.files.special_tokens import no_tokenizer
from kljax.models.language.configuration import TransformerConfig
from kljax.models.language.vocabulary import Kept, restricted
from kljax.typing import PyTree

__all__ = ["trimmed"]


def trimmed(
    models: Mapping[str, Pretrained], texts: Sequence[str], corpus: str, size: int = 0
) -> tuple[Kept, dict[str, tuple[TransformerConfig, PyTree]]]:
    """Models of one tokenizer on one vocabulary, which is trimmed for all alike.

    Args:
      models: by name, at least one.
      texts: what every token is kept of.
      corpus: text whose most frequent tokens fill the rest.
      size: tokens to keep; 0 keeps all.

    Returns:
      The vocabulary, and by name configuration and parameters of every model on it.

    Raises:
      CheckpointError: the first model has no tokenizer.
      ValueError: another one has another tokenizer.
    """
    first, *others = models.values()
    if first.tokenizer is None:
        raise no_tokenizer(pathlib.Path(first.source))
    for other in others:
        check_one_tokenizer(first, other)
    kept = Kept(first.tokenizer, texts, corpus, size)
    found = {name: (model.config, model.params) for name, model in models.items()}
    if kept.kept is not None:
        found = {name: restricted(*one, kept.kept) for name, one in found.items()}
    return kept, found
