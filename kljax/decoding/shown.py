"""What the command shows: text as it comes, shaded by weight, and the weights drawn."""

import dataclasses
import math
import os
import pathlib
import sys
from collections.abc import Iterator, Sequence
from typing import Any

__all__ = ["Piece", "Speller", "console", "plot", "shade", "summary"]

# Shades of one hue, from the terminal's own background on; readable on dark and light.
SHADES = ("", "on grey85", "on light_cyan1", "on sky_blue1", "on sky_blue2", "on cyan3")


@dataclasses.dataclass
class Piece:
    """Some text and the weights of its last token, one per expert."""

    text: str
    alpha: tuple[float, ...]


class Speller:
    """Text of tokens as they come: a character may be spread over several."""

    def __init__(self, tokenizer: Any, prompt: Sequence[int] = ()):
        self.tokenizer = tokenizer
        self.ids = list(prompt)  # whether a space belongs in front depends on it
        self.shown = len(tokenizer.decode(self.ids))
        self.alphas: list[tuple[float, ...]] = []

    def pieces(self, tokens: list[int], alphas: list) -> Iterator[Piece]:
        """Text that is whole, as soon as it is."""
        for token, alpha in zip(tokens, alphas, strict=True):
            if token < self.tokenizer.end:  # a model may have rows of no token
                self.ids.append(token)
            self.alphas.append(alpha)
            text = self.tokenizer.decode(self.ids)
            if text.endswith("\ufffd"):  # the rest of the character is to come
                continue
            yield Piece(text[self.shown :], alpha)
            self.shown = len(text)

    def rest(self) -> Iterator[Piece]:
        """What is left where a text ends inside a character."""
        if text := self.tokenizer.decode(self.ids)[self.shown :]:
            yield Piece(text, self.alphas[-1])
            self.shown += len(text)


def console() -> Any:
    """The terminal, plain where the output is a file."""
    from rich.console import Console

    return Console(file=sys.stdout, highlight=False, markup=False, emoji=False)


def shade(alpha: tuple[float, ...], top: float) -> str | None:
    """A background per sixth of the range of weights; of several, of their sum."""
    if not alpha:
        return None
    share = min(max(sum(alpha) / top, 0.0), 1.0)
    shade = SHADES[min(int(share * len(SHADES)), len(SHADES) - 1)]
    return f"black {shade}" if shade else None


def summary(speller: Speller, seconds: float, note: str) -> str:
    """One line: how many tokens, in which time, at which weights."""
    count = len(speller.alphas)
    line = f"{count} tokens in {seconds:.1f} s (compilation included){note}"
    weights = [sum(alpha) for alpha in speller.alphas if alpha]
    if weights:
        mean = math.fsum(weights) / len(weights)
        line += (
            f"; weight {mean:.2f} on average, {min(weights):.2f} to {max(weights):.2f}"
        )
    return line


def plot(shown: Sequence[Piece], names: Sequence[str], file: pathlib.Path) -> None:
    """The weight of every token as bars, one color per expert."""
    os.environ.setdefault("MPLBACKEND", "Agg")
    from matplotlib.figure import Figure

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
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=150)
