"""Token arrays: scored examples, and the batches of pretraining and fine-tuning."""

import dataclasses
import functools
import zlib
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from experiments.fusion.tasks import TASKS, UNSEEN, Example, TaskConfig, draw, line
from kljax.typing import Bool, Int

__all__ = ["Corpus", "Rows", "Vocabulary", "encoded"]


class Vocabulary(Protocol):
    """Token ids of text; `end` ends an answer and stands before a text."""

    size: int
    end: int

    def encode(self, text: str) -> list[int]: ...

    def decode(self, ids: Any) -> str: ...


@dataclasses.dataclass(frozen=True)
class Rows:
    """Examples as tokens: the end token, prompt, answer, end, padding.

    Fields:
        tokens: ids, padded with the end token.
        answer: where an answer stands, its end token included.
    """

    tokens: Int[np.ndarray, "n t"]
    answer: Bool[np.ndarray, "n t"]

    def __len__(self) -> int:
        return len(self.tokens)

    def prompt(self, row: int) -> list[int]:
        """The tokens before the answer of a row."""
        return self.tokens[row, : int(self.answer[row].argmax())].tolist()


def encoded(
    vocabulary: Vocabulary, examples: Sequence[Example], length: int | None = None
) -> Rows:
    """Examples as rows, right-padded to a multiple of eight tokens or to `length`.

    Raises:
        ValueError: an example is longer than `length`.

    Example:
        >>> from experiments.fusion.text import Characters
        >>> rows = encoded(Characters(), [Example("a=", "b", "a")])
        >>> rows.tokens.tolist(), rows.answer[0].nonzero()[0].tolist()
        ([[0, 66, 30, 67, 0, 0, 0, 0]], [3, 4])
    """
    pairs = []
    for one in examples:
        prompt = [vocabulary.end, *vocabulary.encode(one.prompt)]
        pairs.append((prompt, [*vocabulary.encode(one.answer), vocabulary.end]))
    longest = max(len(prompt) + len(answer) for prompt, answer in pairs)
    length = -(-longest // 8) * 8 if length is None else length
    if longest > length:
        raise ValueError(f"an example has {longest} tokens, more than length={length}")
    tokens = np.full((len(pairs), length), vocabulary.end, np.int32)
    answer = np.zeros((len(pairs), length), bool)
    for row, (prompt, target) in enumerate(pairs):
        end = len(prompt) + len(target)
        tokens[row, :end] = prompt + target
        answer[row, len(prompt) : end] = True
    return Rows(tokens, answer)


class Corpus:
    """What the models read: base text with a trace of the tasks, and task examples.

    Args:
        vocabulary: of all models.
        text: base text.
        tasks: how hard the tasks are.
        trace: share of the pretraining rows that are lines of one task.
        length: tokens of a pretraining row.
        examples: training examples per task.
        seed: of the training examples.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        text: str,
        tasks: TaskConfig,
        *,
        trace: float,
        length: int,
        examples: int,
        seed: int,
    ):
        self.vocabulary, self.tasks = vocabulary, tasks
        self.trace, self.length, self.seed = trace, length, seed
        ids = np.asarray(vocabulary.encode(text), np.int32)
        cut = len(ids) * 9 // 10
        self.text, self.held_out = ids[:cut], ids[cut:]
        self.examples = examples
        self.streams = [self._stream(name) for name in (*TASKS, *UNSEEN)]

    @functools.cache  # noqa: B019 (one corpus per seed)
    def training(self, task: str) -> Rows:
        """The training examples of a task."""
        drawn = draw(task, "train", self.examples, self.tasks, self.seed)
        return encoded(self.vocabulary, drawn)

    def _stream(self, task: str) -> tuple[np.ndarray, np.ndarray]:
        """Lines of a task one after the other, and where each starts."""
        drawn = draw(task, "train", self.examples, self.tasks, self.seed)
        lines = [self.vocabulary.encode(line(one)) for one in drawn]
        if not self.vocabulary.encode("\n"):
            raise ValueError("the vocabulary has no token for the end of a line")
        starts = np.cumsum([0, *map(len, lines[:-1])])
        ids = np.concatenate([np.asarray(one, np.int32) for one in lines])
        keep = starts < len(ids) - self.length
        return ids, starts[keep] if keep.any() else starts[:1]

    def pretraining(self, batch: int) -> Callable[[int], dict[str, np.ndarray]]:
        """`batches(n)`: rows of text and of task lines, every token to be predicted."""
        traced = round(self.trace * batch)
        width = self.length - 1

        def batches(n: int) -> dict[str, np.ndarray]:
            random = np.random.default_rng([self.seed, 1, n])
            rows = []
            for i in range(batch):
                if i < traced:
                    ids, starts = self.streams[(n * traced + i) % len(self.streams)]
                    start = int(random.choice(starts))
                else:
                    ids = self.text
                    start = int(random.integers(0, max(len(ids) - width, 1)))
                row = ids[start : start + width]
                rows.append(np.pad(row, (0, width - len(row)), mode="wrap"))
            tokens = np.pad(
                np.stack(rows), ((0, 0), (1, 0)), constant_values=self.vocabulary.end
            )
            target = np.ones(tokens.shape, bool)
            target[:, 0] = False
            return {"tokens": tokens, "target": target}

        return batches

    def tuning(self, task: str, batch: int) -> Callable[[int], dict[str, np.ndarray]]:
        """`batches(n)`: examples of one task, their answers to be predicted."""
        rows = self.training(task)
        mark = zlib.crc32(task.encode())

        def batches(n: int) -> dict[str, np.ndarray]:
            random = np.random.default_rng([self.seed, 2, mark, n])
            picked = random.integers(0, len(rows), batch)
            return {"tokens": rows.tokens[picked], "target": rows.answer[picked]}

        return batches

    def held_out_rows(self, count: int) -> Rows:
        """Base text that nobody trained on, every token to be predicted."""
        width = self.length - 1
        count = min(count, len(self.held_out) // width)
        tokens = self.held_out[: count * width].reshape(count, width)
        tokens = np.pad(
            tokens, ((0, 0), (1, 0)), constant_values=self.vocabulary.end
        ).astype(np.int32)
        answer = np.ones(tokens.shape, bool)
        answer[:, 0] = False
        return Rows(tokens, answer)
