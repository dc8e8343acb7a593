"""``generate``: text from one model, or from a large one steered by small experts.

    python -m experiments generate --large DIR --prompt TEXT
    python -m experiments generate --large DIR --base DIR --expert DIR --prompt TEXT

The text streams as it is made. With small models every token is shaded by its weight
(how far the experts' change was followed), and ``--plot FILE`` draws the weights.
Without ``--expert`` the base is the amateur of contrastive decoding.
"""

import argparse
import dataclasses
import math
import os
import pathlib
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

from experiments import discovery

__all__ = ["command"]

_PROGRAM = "python -m experiments generate"
_RULES = ("dynamic", "kl_ball", "jeffreys", "axis", "projection", "static")
# Shades of one hue, from the terminal's own background on; readable on dark and light.
_SHADES = (
    "",
    "on grey85",
    "on light_cyan1",
    "on sky_blue1",
    "on sky_blue2",
    "on cyan3",
)


def command(arguments: Sequence[str]) -> int:
    """Runs the command and returns its exit status."""
    options = _parsed(arguments)
    from kljax.errors import CheckpointError, DataError

    try:
        return _run(options)
    except (CheckpointError, DataError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        return 130


def _parsed(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        _PROGRAM,
        description=__doc__,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    source = "folder in the Hugging Face layout, .gguf file or name (smollm2)"
    parser.add_argument("--large", required=True, metavar="DIR", help=source)
    parser.add_argument("--base", metavar="DIR", help="small model before its tuning")
    parser.add_argument(
        "--expert", action="append", default=[], metavar="DIR", help="may be repeated"
    )
    parser.add_argument("--prompt", help="standard input where it is not given")
    parser.add_argument("--chat", action="store_true", help="as a user's turn")
    parser.add_argument("--max-new-tokens", type=int, default=128, metavar="N")
    parser.add_argument(
        "--temperature", type=float, default=0.0, help="0 (the default) is greedy"
    )
    parser.add_argument("--top-k", type=int)
    parser.add_argument("--top-p", type=float)
    parser.add_argument("--min-p", type=float)
    parser.add_argument("--repetition-penalty", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--rule",
        choices=_RULES,
        help="dynamic for one expert, axis for several, static without any",
    )
    parser.add_argument("--weight", type=float, help="of --rule static (1)")
    parser.add_argument("--max-weight", type=float, default=2.0)
    parser.add_argument(
        "--draft",
        type=int,
        default=0,
        metavar="N",
        help="let the first expert draft N tokens that the others check at once",
    )
    parser.add_argument("--plot", type=pathlib.Path, metavar="FILE")
    options = parser.parse_args(arguments)
    if options.expert and not options.base:
        raise discovery.UsageError(
            "--expert needs --base, the small model that it was tuned from: fusion "
            "adds the difference of the two"
        )
    if options.plot and not options.base:
        raise discovery.UsageError("--plot draws weights, and there are none; --base")
    if options.draft and not options.expert:
        raise discovery.UsageError("--draft needs --expert, which makes the drafts")
    if not options.base and (options.rule or options.weight is not None):
        raise discovery.UsageError(
            "--rule and --weight are of fusion, and there is one model; --base"
        )
    if options.weight is not None and not math.isfinite(options.weight):
        raise discovery.UsageError(f"--weight must be finite, got {options.weight}")
    if not -(2**63) <= options.seed < 2**63:
        raise discovery.UsageError(f"--seed must fit 64 bits, got {options.seed}")
    if options.draft < 0:
        raise discovery.UsageError(f"--draft must be at least 0, got {options.draft}")
    return options


@dataclasses.dataclass
class _Piece:
    """Some text and the weights of its last token, one per expert."""

    text: str
    alpha: tuple[float, ...]


def _run(options: argparse.Namespace) -> int:
    # Asked before the weights are read, which takes a while.
    text = _stdin() if options.prompt is None else options.prompt
    if not text:
        raise ValueError("the prompt is empty; give --prompt TEXT")
    sampling = _sampling(options)
    models = _load(options)
    large = models[0]
    if options.chat:
        text = large.tokenizer.chat([{"role": "user", "content": text}])
    # A chat template writes the beginning of the text itself.
    ids = large.tokenizer.encode(text, special=not options.chat)
    if not ids:
        raise ValueError("the prompt has no tokens; give --prompt some words")
    console = _console()
    console.print(text, end="", style="dim", soft_wrap=True)
    shown, start = [], time.perf_counter()
    made = _drafted if options.draft else _streamed
    decoder = _Decoder(large.tokenizer, ids)
    notes = [""]

    def show(piece: _Piece) -> None:
        style = _shade(piece.alpha, options.max_weight)
        console.print(piece.text, end="", style=style, soft_wrap=True)
        shown.append(piece)

    try:
        for tokens, alphas, note in made(options, models, ids, sampling):
            notes.append(note)
            for piece in decoder.pieces(tokens, alphas):
                show(piece)
        for piece in decoder.rest():
            show(piece)
    finally:
        console.print()
    seconds = time.perf_counter() - start
    print(_summary(decoder, seconds, notes[-1]), file=sys.stderr)
    if options.plot:
        _plot(shown, options)
        print(options.plot, file=sys.stderr)
    return 0


def _stdin() -> str:
    try:
        return sys.stdin.read()
    except UnicodeDecodeError as error:
        raise ValueError(
            f"standard input is not UTF-8 at byte {error.start}; convert it, or give "
            "--prompt TEXT"
        ) from error


def _sampling(options: argparse.Namespace) -> Any:
    from kljax.decoding.sampling import Sampling

    return Sampling(
        # The Python number 0 is the greedy one.
        temperature=options.temperature or 0,
        top_k=options.top_k,
        top_p=options.top_p,
        min_p=options.min_p,
        repetition_penalty=options.repetition_penalty,
    )


# ------------------------------------------------------------------ models


def _load(options: argparse.Namespace) -> list[Any]:
    """The large model, the base, the experts; one tokenizer for all."""
    from kljax.models.files.pretrained import from_pretrained, locate
    from kljax.models.files.special_tokens import no_tokenizer

    folder = locate(options.large)
    there = [(folder / name).is_file() for name in ("config.json", "tokenizer.json")]
    if there == [True, False]:
        raise no_tokenizer(folder)
    sources = [options.large, *([options.base] if options.base else ())]
    sources += options.expert
    models = [from_pretrained(source) for source in sources]
    for model in models[1:]:
        _check_tokenizer(models[0], model)
    return models


def _check_tokenizer(large: Any, small: Any) -> None:
    if small.tokenizer is None:
        if small.config.vocab_size != large.config.vocab_size:
            raise ValueError(
                f"{small.source} has {small.config.vocab_size} tokens and no "
                f"tokenizer.json, {large.source} has {large.config.vocab_size}; fusion "
                "needs models of one vocabulary"
            )
        return
    ours, theirs = large.tokenizer.vocabulary, small.tokenizer.vocabulary
    if ours == theirs:
        return
    differing = sorted(
        token for token in {*ours, *theirs} if ours.get(token) != theirs.get(token)
    )
    token = differing[0]
    raise ValueError(
        f"{small.source} has another tokenizer than {large.source}: {len(differing)} "
        f"tokens differ, the first is {token!r} (id {theirs.get(token)} there, "
        f"{ours.get(token)} here). Fusion adds logits of the same tokens: use small "
        "models that share the large one's tokenizer"
    )


def _fusion(options: argparse.Namespace, models: Sequence[Any]) -> Any:
    from kljax.decoding.fusion_settings import Fusion, preset

    fields: dict[str, Any] = {"max_weight": options.max_weight}
    fields["pad_vocab"] = len({model.config.vocab_size for model in models}) > 1
    if options.weight is not None:
        fields["weight"] = options.weight
    if len(models) == 2:  # no expert
        return dataclasses.replace(
            preset("contrastive"), **fields, rule=options.rule or "static"
        )
    return Fusion(rule=options.rule, **fields)


# ------------------------------------------------------------------ tokens and weights


def _common(
    options: argparse.Namespace, models: Sequence[Any], ids: list[int], sampling: Any
) -> dict[str, Any]:
    import jax
    import numpy as np

    return {
        "prompt": np.asarray([ids], np.int32),
        "max_new_tokens": options.max_new_tokens,
        "sampling": sampling,
        "key": jax.random.key(options.seed),
        "stop_tokens": models[0].stop_tokens,
        "pad_id": models[0].pad_id,
        "combine": _fusion(options, models) if len(models) > 1 else None,
    }


_Made = Iterator[tuple[list[int], list[tuple[float, ...]], str]]


def _streamed(
    options: argparse.Namespace, models: Sequence[Any], ids: list[int], sampling: Any
) -> _Made:
    """Tokens of a few steps at a time, with their weights."""
    from kljax.decoding.generation import stream

    large, *small = models
    common = _common(options, models, ids, sampling)
    others = [(model.apply, model.params) for model in small]
    parts = stream(large.apply, large.params, chunk=4, others=others, **common)
    for part in parts:
        count = int(part.lengths[0])
        yield _columns(models, part, count, "")


def _drafted(
    options: argparse.Namespace, models: Sequence[Any], ids: list[int], sampling: Any
) -> _Made:
    """The whole text by block verification, at once."""
    from kljax.decoding.speculative import speculate

    common = _common(options, models, ids, sampling)
    pairs = [(model.apply, model.params) for model in models]
    out = speculate(pairs, draft=options.draft, **common)
    note = f", {float(out.calls_per_token[0]):.2f} calls of the large model per token"
    yield _columns(models, out, int(out.lengths[0]), note)


def _columns(
    models: Sequence[Any], part: Any, count: int, note: str
) -> tuple[list[int], list, str]:
    tokens = part.tokens[0, :count].tolist()
    alpha = part.diagnostics.get("alpha")
    alphas = [()] * count if alpha is None else alpha[0, :count].tolist()
    # A row of NaN draws -1.
    if min(tokens, default=0) < 0 or any(math.isnan(x) for row in alphas for x in row):
        sources = " or ".join(model.source for model in models)
        raise ValueError(
            f"the logits of {sources} are NaN: its weights are damaged, or too large "
            "for their type; get them again"
        )
    return tokens, [tuple(row) for row in alphas], note


class _Decoder:
    """Text of tokens as they come: a character may be spread over several."""

    def __init__(self, tokenizer: Any, prompt: Sequence[int] = ()):
        self.tokenizer = tokenizer
        self.ids = list(prompt)  # whether a space belongs in front depends on it
        self.shown = len(tokenizer.decode(self.ids))
        self.alphas: list[tuple[float, ...]] = []

    def pieces(self, tokens: list[int], alphas: list) -> Iterator[_Piece]:
        for token, alpha in zip(tokens, alphas, strict=True):
            if token < self.tokenizer.end:  # a model may have rows of no token
                self.ids.append(token)
            self.alphas.append(alpha)
            text = self.tokenizer.decode(self.ids)
            if text.endswith("\ufffd"):  # the rest of the character is to come
                continue
            yield _Piece(text[self.shown :], alpha)
            self.shown = len(text)

    def rest(self) -> Iterator[_Piece]:
        """What is left where a text ends inside a character."""
        if text := self.tokenizer.decode(self.ids)[self.shown :]:
            yield _Piece(text, self.alphas[-1])
            self.shown += len(text)


# ------------------------------------------------------------------ what is shown


def _console() -> Any:
    from rich.console import Console

    return Console(file=sys.stdout, highlight=False, markup=False, emoji=False)


def _shade(alpha: tuple[float, ...], top: float) -> str | None:
    """A background per sixth of the range of weights; of several, of their sum."""
    if not alpha:
        return None
    share = min(max(sum(alpha) / top, 0.0), 1.0)
    shade = _SHADES[min(int(share * len(_SHADES)), len(_SHADES) - 1)]
    return f"black {shade}" if shade else None


def _summary(decoder: _Decoder, seconds: float, note: str) -> str:
    count = len(decoder.alphas)
    line = f"{count} tokens in {seconds:.1f} s (compilation included){note}"
    weights = [sum(alpha) for alpha in decoder.alphas if alpha]
    if weights:
        mean = math.fsum(weights) / len(weights)
        line += (
            f"; weight {mean:.2f} on average, {min(weights):.2f} to {max(weights):.2f}"
        )
    return line


def _plot(shown: Sequence[_Piece], options: argparse.Namespace) -> None:
    os.environ.setdefault("MPLBACKEND", "Agg")
    from matplotlib.figure import Figure

    names = [pathlib.Path(x).name for x in options.expert] or ["large − base"]
    figure = Figure(figsize=(max(6.0, 0.22 * len(shown)), 3.2), layout="constrained")
    axes = figure.subplots()
    places, below = range(len(shown)), [0.0] * len(shown)
    for i, name in enumerate(names):
        heights = [piece.alpha[i] for piece in shown]
        axes.bar(places, heights, bottom=below, width=0.8, label=name)
        below = [x + y for x, y in zip(below, heights, strict=True)]
    axes.set_xticks(places)
    labels = [piece.text.replace("$", r"\$").replace("\n", "↵") for piece in shown]
    axes.set_xticklabels(labels, rotation=90, fontsize=7)
    axes.set_ylabel("weight")
    axes.margins(x=0.01)
    axes.legend(frameon=False)
    options.plot.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(options.plot, dpi=150)
