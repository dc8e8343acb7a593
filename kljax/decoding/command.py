"""``generate``: text from one model, or from a large one steered by small experts.

    python -m kljax.decoding generate --large DIR --prompt TEXT
    python -m kljax.decoding generate --large DIR --base DIR --expert DIR --prompt TEXT

The text streams as it is made. With small models every token is shaded by its weight
(how far the experts' change was followed), and ``--plot FILE`` draws the weights.
Without ``--expert`` the base is the amateur of contrastive decoding.
"""

import argparse
import dataclasses
import functools
import math
import pathlib
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np

from kljax.decoding.fusion import RULES, Fusion, preset
from kljax.decoding.generation import stream
from kljax.decoding.sampling import Sampling
from kljax.decoding.settings import Decoding
from kljax.decoding.shown import Piece, Speller, console, plot, shade, summary
from kljax.decoding.speculative import speculate
from kljax.errors import CheckpointError, DataError

__all__ = ["main", "parsed"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit status."""
    try:
        return _run(parsed(arguments))
    except SystemExit as stop:  # argparse has printed why
        return stop.code if isinstance(stop.code, int) else 2
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] == "kljax":
            raise
        remedy = "install what the command needs, pip install 'kljax[generate]'"
        print(f"error: {error}: {remedy}", file=sys.stderr)
        return 1
    except (CheckpointError, DataError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        return 130


def parsed(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of a command line, ``generate`` its first word."""
    program = argparse.ArgumentParser("python -m kljax.decoding", description=None)
    commands = program.add_subparsers(required=True, metavar="generate")
    parser = commands.add_parser(
        "generate",
        help="text from a model, or from a large one steered by small experts",
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
        choices=RULES,
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
    options = program.parse_args(arguments)
    given, weighed = bool(options.base), options.weight is not None
    finite, seed = not weighed or math.isfinite(options.weight), options.seed
    lacking = {
        "--expert needs --base, the small model that it was tuned from: fusion adds "
        "the difference of the two": options.expert and not given,
        "--plot draws weights, and there are none; --base": options.plot and not given,
        "--draft needs --expert, which makes the drafts": (
            options.draft and not options.expert
        ),
        "--rule and --weight are of fusion, and there is one model; --base": (
            (options.rule or weighed) and not given
        ),
        f"--weight must be finite, got {options.weight}": not finite,
        f"--seed must fit 64 bits, got {seed}": not -(2**63) <= seed < 2**63,
        f"--draft must be at least 0, got {options.draft}": options.draft < 0,
    }
    for said, wrong in lacking.items():
        if wrong:
            parser.error(said)
    return options


def _run(options: argparse.Namespace) -> int:
    # Asked before the weights are read, which takes a while.
    text = _stdin() if options.prompt is None else options.prompt
    if not text:
        raise ValueError("the prompt is empty; give --prompt TEXT")
    sampling = _law(options)
    models = _load(options)
    large = models[0]
    if options.chat:
        text = large.tokenizer.chat([{"role": "user", "content": text}])
    # A chat template writes the beginning of the text itself.
    ids = large.tokenizer.encode(text, special=not options.chat)
    if not ids:
        raise ValueError("the prompt has no tokens; give --prompt some words")
    screen = console()
    screen.print(text, end="", style="dim", soft_wrap=True)
    shown, start = [], time.perf_counter()
    made = _drafted if options.draft else _streamed
    speller = Speller(large.tokenizer, ids)
    notes = [""]

    def show(piece: Piece) -> None:
        style = shade(piece.alpha, options.max_weight)
        screen.print(piece.text, end="", style=style, soft_wrap=True)
        shown.append(piece)

    try:
        for tokens, alphas, note in made(options, models, ids, sampling):
            notes.append(note)
            for piece in speller.pieces(tokens, alphas):
                show(piece)
        for piece in speller.rest():
            show(piece)
    finally:
        screen.print()
    seconds = time.perf_counter() - start
    print(summary(speller, seconds, notes[-1]), file=sys.stderr)
    if options.plot:
        names = [pathlib.Path(x).name for x in options.expert] or ["large − base"]
        plot(shown, names, options.plot)
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


def _law(options: argparse.Namespace) -> Sampling:
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
    from kljax.models.files.pretrained import (
        check_one_tokenizer,
        from_pretrained,
        locate,
    )
    from kljax.models.files.special_tokens import no_tokenizer

    folder = locate(options.large)
    there = [(folder / name).is_file() for name in ("config.json", "tokenizer.json")]
    if there == [True, False]:
        raise no_tokenizer(folder)
    sources = [options.large, *([options.base] if options.base else ())]
    sources += options.expert
    models = [from_pretrained(source) for source in sources]
    for model in models[1:]:
        check_one_tokenizer(models[0], model)
    return models


def _fusion(options: argparse.Namespace, models: Sequence[Any]) -> Any:
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


def _call(
    function: Any, options: argparse.Namespace, models: Any, ids: list[int], law: Any
) -> Any:
    """`stream` or `speculate`, but for their own options."""
    settings = Decoding(
        options.max_new_tokens,
        law,
        stop_tokens=models[0].stop_tokens,
        pad_id=models[0].pad_id,
        combine=_fusion(options, models) if len(models) > 1 else None,
    )
    pairs = [(model.apply, model.params) for model in models]
    prompt, key = np.asarray([ids], np.int32), jax.random.key(options.seed)
    return functools.partial(function, pairs, prompt, settings, key=key)


_Made = Iterator[tuple[list[int], list[tuple[float, ...]], str]]


def _streamed(
    options: argparse.Namespace, models: Sequence[Any], ids: list[int], sampling: Any
) -> _Made:
    """Tokens of a few steps at a time, with their weights."""
    for part in _call(stream, options, models, ids, sampling)(chunk=4):
        count = int(part.lengths[0])
        yield _columns(models, part, count, "")


def _drafted(
    options: argparse.Namespace, models: Sequence[Any], ids: list[int], sampling: Any
) -> _Made:
    """The whole text by block verification, at once."""
    out = _call(speculate, options, models, ids, sampling)(draft=options.draft)
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
