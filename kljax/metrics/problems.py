"""Problems whose answers are verified: arithmetic of our own, and reasoning-gym's."""

import functools
import importlib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from kljax.arguments import whole
from kljax.errors import DataError, unknown
from kljax.metrics.rewards import number_reward

__all__ = ["Problem", "arithmetic", "reasoning_gym"]


class Problem(NamedTuple):
    """What is asked, one right answer, and the reward of any text, from 0 to 1."""

    prompt: str
    answer: str
    reward: Callable[[str], float]


_OPERATIONS: dict[str, Callable[[int, int], int]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
}


def arithmetic(
    count: int,
    seed: int,
    *,
    digits: int = 2,
    terms: int = 2,
    operations: str = "+-*",
) -> list[Problem]:
    """Problems such as ``17+4*23=``, with products before sums.

    Args:
      count: of the problems, at least 1.
      seed: the same one gives the same problems.
      digits: numbers have so many at most.
      terms: numbers in each, at least 2.
      operations: of "+", "-" and "*", drawn alike.

    Returns:
      Problems; the reward of a text is `number_reward`, 1.0 where its last number is
      the answer.

    Raises:
      ValueError: sizes out of range, another operation.

    Example:
      >>> problem = arithmetic(1, seed=0)[0]
      >>> problem.prompt, problem.answer, problem.reward("I say 45 or so, no: 5")
      ('85-63=', '22', 0.0)
    """
    whole("count", count), whole("digits", digits), whole("terms", terms, 2)
    for one in operations:
        if one not in _OPERATIONS:
            raise ValueError(unknown("operation", one, _OPERATIONS))
    if not operations:
        raise ValueError("operations is empty; expected some of +-*")
    random = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        numbers = [int(n) for n in random.integers(0, 10**digits, terms)]
        signs = [operations[i] for i in random.integers(0, len(operations), terms - 1)]
        text = "".join(f"{n}{sign}" for n, sign in zip(numbers, [*signs, "="]))
        answer = str(_value(numbers, signs))
        reward = functools.partial(number_reward, answer=answer)
        found.append(Problem(text, answer, reward))
    return found


def _value(numbers: list[int], signs: list[str]) -> int:
    """Products first, then from the left."""
    left, rest = [numbers[0]], []
    for sign, number in zip(signs, numbers[1:]):
        if sign == "*":
            left[-1] *= number
        else:
            rest.append(sign)
            left.append(number)
    steps = zip(rest, left[1:])
    return functools.reduce(lambda a, s: _OPERATIONS[s[0]](a, s[1]), steps, left[0])


def reasoning_gym(name: str, count: int, seed: int, **settings: Any) -> list[Problem]:
    """Problems of one of reasoning-gym's generators, with its own verifier.

    Args:
      name: of the generator, "chain_sum" or "gsm_symbolic" say.
      count: of the problems.
      seed: the same one gives the same problems.
      settings: the generator's own.

    Returns:
      Problems; the reward of a text is what the package's `score_answer` gives it.

    Raises:
      DataError: reasoning-gym is not installed; says how to.
      ValueError: a name or a setting that it does not know, in its words.
    """
    whole("count", count)
    try:
        package = importlib.import_module("reasoning_gym")
    except ImportError as missing:
        raise DataError(
            "reasoning-gym is not installed: pip install 'kljax[reasoning]', or take "
            "kljax.metrics.problems.arithmetic, which needs nothing"
        ) from missing
    try:
        made: Any = package.create_dataset(name, size=count, seed=seed, **settings)
    except (AssertionError, TypeError, ValueError) as refused:
        raise ValueError(f"reasoning-gym {name!r}: {refused}") from refused

    def problem(entry: dict[str, Any]) -> Problem:
        def reward(text: str) -> float:
            return float(made.score_answer(answer=text, entry=entry))

        return Problem(entry["question"], str(entry["answer"]), reward)

    return [problem(entry) for entry in made]
