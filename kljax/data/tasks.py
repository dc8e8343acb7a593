"""Exactly scorable tasks of one line each, with splits that cannot overlap.

A task draws a prompt and its one right answer. Which split an example belongs to is a
checksum of what the answer depends on, so no order of drawing can bring a test example
(or its mirror image, where the task has a symmetry) into training or pretraining.
Tasks of one's own come from a folder of NAME.SPLIT.jsonl, each line with a `prompt` and
an `answer`; a task without a train file is one that nobody is fine-tuned on.
"""

import dataclasses
import datetime
import functools
import pathlib
import zlib
from collections.abc import Callable

import numpy as np

from kljax.data.readers.text import read_pairs
from kljax.errors import DataError

__all__ = ["TASKS", "UNSEEN", "Example", "TaskConfig", "draw", "few_shot", "line"]

MONTHS = "Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split()
SPLITS = {"test": (0,), "validation": (1,), "train": tuple(range(2, 10))}


@dataclasses.dataclass(frozen=True)
class TaskConfig:
    """How hard the tasks are."""

    digits: int = 2
    """Of each summand."""
    items: int = 4
    """Numbers of two digits to sort."""
    letters: int = 6
    """Of the string to reverse."""
    days: int = 6
    """Most days by which a date is moved."""
    spaced: bool = False
    """Letters apart, for vocabularies that would merge them."""
    folder: str = ""
    """Read the tasks from here in place of the four."""

    def names(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Tasks with experts, and tasks without.

        Raises:
          DataError: the folder has no tasks.
        """
        if not self.folder:
            return tuple(TASKS), tuple(UNSEEN)
        files = sorted(pathlib.Path(self.folder).expanduser().glob("*.test.jsonl"))
        names = [path.name.removesuffix(".test.jsonl") for path in files]
        if not names:
            raise DataError(
                f"{self.folder} has no NAME.test.jsonl: give the folder of the tasks"
            )
        seen = [n for n in names if self.path(n, "train").exists()]
        return tuple(seen), tuple(n for n in names if n not in seen)

    def path(self, task: str, split: str) -> pathlib.Path:
        """Where a split of a task lies."""
        return pathlib.Path(self.folder).expanduser() / f"{task}.{split}.jsonl"

    def to_learn(self, task: str) -> str:
        """The split whose examples a model may read: of a folder's unseen tasks the
        validation split is all that there is."""
        lacking = self.folder and not self.path(task, "train").exists()
        return "validation" if lacking else "train"


@dataclasses.dataclass(frozen=True)
class Example:
    """A prompt, its answer, and what decides the split."""

    prompt: str
    answer: str
    identity: str


def _add(random: np.random.Generator, config: TaskConfig) -> Example:
    """47+85= as 7+5+0=12 4+8+1=13 132: every column with its carry, then the sum."""
    low, high = 10 ** (config.digits - 1), 10**config.digits
    a, b = (int(v) for v in random.integers(low, high, 2))
    columns, carry, x, y = [], 0, a, b
    for _ in range(config.digits):
        total = x % 10 + y % 10 + carry
        columns.append(f"{x % 10}+{y % 10}+{carry}={total}")
        carry, x, y = total // 10, x // 10, y // 10
    answer = " ".join((*columns, str(a + b)))
    # a + b and b + a share their columns: one split for both.
    return Example(f"{a}+{b}=", answer, f"add {min(a, b)} {max(a, b)}")


def _numbers(
    random: np.random.Generator, config: TaskConfig, verb: str, falling: bool
) -> Example:
    """sort 52 19 40= as 19 40 52, and down 52 19 40= as 52 40 19."""
    found = [str(d) for d in random.integers(10, 100, config.items)]
    ordered = sorted(found)
    answer = " ".join(reversed(ordered) if falling else ordered)
    # Permutations of the same numbers have the same answer, rising and falling too.
    return Example(f"{verb} {' '.join(found)}=", answer, "sort " + " ".join(ordered))


def _flip(random: np.random.Generator, config: TaskConfig) -> Example:
    """flip kqzma= as amzqk."""
    letters = [chr(97 + int(i)) for i in random.integers(0, 26, config.letters)]
    space = " " if config.spaced else ""
    text = space.join(letters)
    return Example(f"flip {text}=", space + space.join(letters[::-1]), f"flip {text}")


def _date(random: np.random.Generator, config: TaskConfig) -> Example:
    """1987-02-25+9= as 6 Mar 1987: a date some days on, rewritten."""
    year, month, day = (
        int(random.integers(*r)) for r in ((1900, 2100), (1, 13), (1, 29))
    )
    start = datetime.date(year, month, day)
    days = int(random.integers(0, config.days + 1))
    end = start + datetime.timedelta(days=days)
    prompt = f"{start.isoformat()}+{days}="
    return Example(prompt, f"{end.day} {MONTHS[end.month - 1]} {end.year}", prompt)


Draw = Callable[[np.random.Generator, TaskConfig], Example]
_sort = functools.partial(_numbers, verb="sort", falling=False)
_down = functools.partial(_numbers, verb="down", falling=True)
TASKS: dict[str, Draw] = {"add": _add, "sort": _sort, "flip": _flip, "date": _date}
UNSEEN: dict[str, Draw] = {"down": _down}  # no expert learns it
"""Tasks that nobody is fine-tuned on; they share splits with those they mirror."""


def draw(
    task: str, split: str, count: int, config: TaskConfig, seed: int
) -> list[Example]:
    """Examples of one split, a function of the arguments alone.

    Args:
      task: a name of `TASKS` or `UNSEEN`.
      split: "train", "validation" or "test".
      count: how many; repetitions are possible.
      config: how hard.
      seed: of the draws.

    Returns:
      `count` examples; those of two splits never share their identity.

    Raises:
      ValueError: an unknown task or split.
      DataError: a file of the folder is missing, or a line of it cannot be read.

    Example:
      >>> [one] = draw("flip", "test", 1, TaskConfig(letters=2), 0)
      >>> one.prompt[5:7] == one.answer[::-1]
      True
    """
    if config.folder:
        return _read(config.path(task, split), count)
    every = TASKS | UNSEEN
    if task not in every or split not in SPLITS:
        raise ValueError(
            f"need a task of {sorted(every)} and a split of {sorted(SPLITS)}, got "
            f"{task!r} and {split!r}"
        )
    random = np.random.default_rng([seed, zlib.crc32(f"{task} {split}".encode())])
    found: list[Example] = []
    while len(found) < count:
        one = every[task](random, config)
        if zlib.crc32(one.identity.encode()) % 10 in SPLITS[split]:
            found.append(one)
    return found


def _read(path: pathlib.Path, count: int) -> list[Example]:
    """The first examples of a file."""
    pairs = read_pairs(path)[:count]
    return [Example(prompt, answer, prompt) for prompt, answer in pairs]


def line(example: Example) -> str:
    """Prompt, answer and the end of the line.

    Example:
      >>> line(Example("flip ab=", "ba", "flip ab"))
      'flip ab=ba\\n'
    """
    return f"{example.prompt}{example.answer}\n"


def few_shot(
    examples: list[Example], shots: list[Example], count: int
) -> list[Example]:
    """The same examples behind `count` solved ones each, taken from `shots` in turn.

    Example:
      >>> one, two = Example("flip ab=", "ba", "1"), Example("flip cd=", "dc", "2")
      >>> few_shot([one], [two], 1)[0].prompt
      'flip cd=dc\\nflip ab='
    """
    found = []
    for i, one in enumerate(examples):
        picked = [shots[(i * count + j) % len(shots)] for j in range(count)]
        prompt = "".join(map(line, picked)) + one.prompt
        found.append(Example(prompt, one.answer, one.identity))
    return found
