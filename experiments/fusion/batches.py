"""The batches of pretraining and fine-tuning."""

import zlib
from collections.abc import Callable, Sequence

import numpy as np

from experiments.fusion.tasks import TaskConfig, draw
from kljax.data.pairs import Rows, Vocabulary
from kljax.typing import Int

__all__ = ["Corpus"]


class Corpus:
    """What the models read: base text with a trace of the tasks, and task examples.

    Args:
        vocabulary: of all models.
        text: tokens of the base text; the last tenth is held out.
        tasks: how hard the tasks are.
        domain: tokens of another kind of text, for an expert of its own; none is fine.
        trace: share of the pretraining rows that are lines of one task.
        length: tokens of a row of text.
        examples: training examples per task.
        seed: of the training examples and the batches.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        text: Int[np.ndarray, "n"],
        tasks: TaskConfig,
        *,
        domain: Int[np.ndarray, "m"] | None = None,
        trace: float,
        length: int,
        examples: int,
        seed: int,
    ):
        self.vocabulary, self.tasks = vocabulary, tasks
        self.trace, self.length, self.seed = trace, length, seed
        self.examples = examples
        self.text = text[: len(text) * 9 // 10]
        domain = np.zeros(0, np.int32) if domain is None else domain
        cut = len(domain) * 9 // 10
        self.domain, self.held_out = domain[:cut], domain[cut:]
        seen, unseen = tasks.names()
        self.streams = {name: self._stream(name) for name in (*seen, *unseen)}

    def _stream(self, task: str) -> tuple[Rows, np.ndarray]:
        """Lines of a task one after the other, and where each starts."""
        split = "train"
        if self.tasks.folder and not self.tasks.path(task, split).exists():
            split = "validation"  # what the unseen tasks of a folder have
        drawn = draw(task, split, self.examples, self.tasks, self.seed)
        ids: list[int] = []
        target: list[bool] = []
        starts = []
        for one in drawn:
            starts.append(len(ids))
            prompt = self.vocabulary.encode(one.prompt)
            answer = [*self.vocabulary.encode(one.answer), self.vocabulary.end]
            ids += prompt + answer
            target += [False] * len(prompt) + [True] * len(answer)
        last = max(len(ids) - self.length, 0)
        found = np.array([start for start in starts if start <= last])
        return Rows(np.array(ids, np.int32), np.array(target)), found

    def _row(self, values: np.ndarray, start: int, first: int | bool) -> np.ndarray:
        """What follows a place, behind a first value; short texts repeat."""
        row = np.resize(values[start : start + self.length - 1], self.length - 1)
        return np.append(np.asarray(first, row.dtype), row)

    def _text_rows(
        self, ids: np.ndarray, count: int, random: np.random.Generator
    ) -> list[np.ndarray]:
        high = max(len(ids) - self.length, 1)
        end = self.vocabulary.end
        return [self._row(ids, int(i), end) for i in random.integers(0, high, count)]

    def _lines(self, task: str, random: np.random.Generator) -> Rows:
        """One row of a task's lines, one solved example after the other."""
        rows, starts = self.streams[task]
        start = int(random.choice(starts))
        tokens = self._row(rows.tokens, start, self.vocabulary.end)
        return Rows(tokens[None], self._row(rows.answer, start, False)[None])

    def pretraining(self, batch: int) -> Callable[[int], dict[str, np.ndarray]]:
        """`batches(n)`: rows of text, and of task lines whose answers are predicted."""
        traced, names = round(self.trace * batch), list(self.streams)

        def batches(n: int) -> dict[str, np.ndarray]:
            random = np.random.default_rng([self.seed, 1, n])
            text = np.stack(self._text_rows(self.text, batch - traced, random))
            turns = range(n * traced, (n + 1) * traced)
            lines = [self._lines(names[i % len(names)], random) for i in turns]
            return _joined([_whole(text), *lines])

        return batches

    def tuning(self, task: str, batch: int) -> Callable[[int], dict[str, np.ndarray]]:
        """`batches(n)`: rows of lines of one task, their answers to be predicted.

        "domain" is no task but the other kind of text.
        """
        mark = zlib.crc32(task.encode())

        def batches(n: int) -> dict[str, np.ndarray]:
            random = np.random.default_rng([self.seed, 2, mark, n])
            if task == "domain":
                text = np.stack(self._text_rows(self.domain, batch, random))
                return _joined([_whole(text)])
            return _joined([self._lines(task, random) for _ in range(batch)])

        return batches

    def domain_rows(self, count: int, validation: bool = False) -> Rows:
        """Held-out text of the other kind, every token to be predicted."""
        width = self.length - 1
        count = min(count, len(self.held_out) // width // 2)
        first = count if validation else 0
        starts = [(first + i) * width for i in range(count)]
        end = self.vocabulary.end
        return _whole(np.stack([self._row(self.held_out, i, end) for i in starts]))


def _whole(tokens: np.ndarray) -> Rows:
    """Rows of text: every token but the first is to be predicted."""
    target = np.ones(tokens.shape, bool)
    target[:, 0] = False
    return Rows(tokens, target)


def _joined(parts: Sequence[Rows]) -> dict[str, np.ndarray]:
    """Rows as a batch."""
    return {
        "tokens": np.concatenate([part.tokens for part in parts]),
        "target": np.concatenate([part.answer for part in parts]),
    }
