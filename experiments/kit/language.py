"""A language model to start from: a published one, or a small one trained on text."""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from experiments.kit.scores import Scores
from experiments.kit.study import Study
from kljax.data.batching import passes
from kljax.data.text import TextConfig, read_corpus
from kljax.decoding import Decoding, generate
from kljax.divergences import Logits
from kljax.models.files.pretrained import from_pretrained
from kljax.models.language.task_arithmetic import soup
from kljax.models.language.transformer import TransformerConfig, transformer
from kljax.models.language.vocabulary import Bytes
from kljax.objectives.distillation import sequence_level_loss
from kljax.objectives.partition import estimated
from kljax.training import Loss, Player, init_state
from kljax.typing import Float, Int, PyTree


@dataclasses.dataclass(frozen=True)
class LanguageConfig:
    source: str | None = None
    """Name or folder for `from_pretrained`; None: bytes of text, trained here."""
    text: TextConfig = dataclasses.field(
        default_factory=lambda: TextConfig(packages=("numpy",), length=64)
    )
    width: int = 64
    depth: int = 2
    steps: int = 300
    batch: int = 16
    rate: float = 3e-3


class LanguageModel(NamedTuple):
    apply: Any
    """Of `kljax.models.language.transformer`: a decoder too."""
    params: PyTree
    start: int
    """A token to start a text from: the end of another, or the most frequent one."""


def language_model(study: Study, config: LanguageConfig, length: int) -> LanguageModel:
    """The model (stage "language model", where it is trained).

    Args:
      study: the run.
      config: which one.
      length: the longest text that it must read, in tokens.
    """
    if config.source is not None:
        found: Any = from_pretrained(config.source)
        return LanguageModel(found.apply, found.params, found.tokenizer.eos_id or 0)
    corpus = read_corpus(config.text, Bytes.encode, Bytes.end)
    study.pin(**{"text/sha256": corpus.sha256})
    apply, initial = transformer(
        TransformerConfig(
            len(corpus.ids),
            width=config.width,
            depth=config.depth,
            heads=4,
            hidden=2 * config.width,
            max_length=max(config.text.length, length),
        )
    )

    def loss(params, *, state, frozen, batch, key):
        side = Logits(apply(params, batch["tokens"]))
        mean, metrics = sequence_level_loss(side, batch["labels"], reduction="mean")
        return Loss(None, metrics, mean=mean)

    def batch(n: int) -> dict[str, np.ndarray]:
        text = corpus.train[rows(n)]
        return {"tokens": text[:, :-1], "labels": text[:, 1:]}

    seed, role, label = study.config.seed, "model", "language model"
    rows = passes(len(corpus.train), config.batch, seed)
    players = [Player(role, loss, optax.adam(config.rate))]
    key = jax.random.key(seed)
    state = init_state(key, {role: initial(key)}, players)
    trained = study.fit(label, players, state, batch, steps=config.steps).params[role]
    return LanguageModel(
        apply, trained, int(np.bincount(corpus.train.ravel()).argmax())
    )


def written(
    study: Study, config: LanguageConfig, count: int, tokens: int
) -> Int[np.ndarray, "count tokens"]:
    """So many texts of so many tokens by the model itself (stage "texts")."""
    work = lambda: sampled(language_model(study, config, tokens + 1), count, tokens)  # noqa: E731
    return study.once("texts", work)


def sampled(
    model: LanguageModel, count: int, tokens: int, *, batch: int = 512
) -> Int[np.ndarray, "count tokens"]:
    """Texts from a fixed key, `batch` of them at a time."""
    prompt, rest = np.full((batch, 1), model.start), Decoding(tokens)
    pair, keys = (model.apply, model.params), jax.random.split(jax.random.key(0), count)
    made = [
        generate([pair], prompt, rest, key=key).tokens
        for key in keys[: -(-count // batch)]
    ]
    return np.concatenate(made)[:count]


def forecast(
    study: Study,
    sources: Sequence[str],
    count: int,
    tokens: int,
    betas: Sequence[float] = (1.0, 0.3),
) -> Scores:
    """What two models and their soup could give as references, by samples of each.

    Args:
      study: the run.
      sources: two fine-tuned models of one kind, names or folders.
      count, tokens: texts of each reference, and how long they are.
      betas: of the penalty, in standard deviations of the reward.

    Returns:
      By reference and β, of the reward "count" of `text_rewards`: its mean ("own"),
      that of the best policy ("reward"), which is so far from the reference ("KL"),
      and the share of the texts that say so ("effective").
    """
    models = [
        language_model(study, LanguageConfig(source), tokens + 1) for source in sources
    ]
    mixed = models[0]._replace(params=soup([model.params for model in models]))
    references = dict(zip(("first model", "second model", "soup"), (*models, mixed)))
    texts = [
        study.once(("texts", name), lambda model=model: sampled(model, count, tokens))
        for name, model in references.items()
    ]
    every = text_rewards(np.concatenate(texts))["count"].reshape(len(texts), -1)
    rows = {}
    for (name, r), beta in itertools.product(zip(references, every), betas):
        found = estimated(r / beta)
        best = float(np.exp(r / beta - np.logaddexp.reduce(r / beta)) @ r)
        rows[name, study.config.seed, beta] = {
            "own": r.mean(),
            "reward": best,
            "KL": best / beta - float(found.log_partition),
            "effective": float(found.effective) / count,
        }
    scores = Scores(rows, factor="β")
    for beta in scores.levels:
        about = f"Two language models and their soup by samples, β = {beta:g} σ"
        study.score_table(about, scores.at(beta))
    return scores


def text_rewards(tokens: Int[np.ndarray, "n t"]) -> dict[str, Float[np.ndarray, "n"]]:
    """Three rewards of texts that need no judge, of mean 0 and deviation 1, cut at 2.

    How often the second most frequent token stands there; whether the ninth does; and
    one learned (least squares) from which of two texts has more different tokens.
    """
    ids = np.bincount(tokens.ravel()).argsort()[::-1][:64]
    counts = (tokens[:, :, None] == ids).sum(1).astype(float)
    different = np.array([len(set(row)) for row in tokens.tolist()])
    half = len(tokens) // 2
    apart = counts[:half] - counts[half : 2 * half]
    sign = np.sign(different[:half] - different[half : 2 * half])
    learned = np.linalg.lstsq(apart.T @ apart + np.eye(len(ids)), apart.T @ sign)[0]
    binary = counts[:, 8] > 0
    every = {"count": counts[:, 1], "binary": binary, "learned": counts @ learned}
    scaled = {k: (v - v.mean()) / max(v.std(), 1e-9) for k, v in every.items()}
    return {name: value.clip(-2, 2) for name, value in scaled.items()}
