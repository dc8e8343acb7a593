"""Questions of arithmetic with their one right answer, as digits.

Digits are tokens: ``[n, s]`` of the questions and ``[n, t]`` of the answers.
"""

import numpy as np

from kljax.arguments import whole
from kljax.typing import Int

__all__ = ["longest_carry", "mistaken", "modular", "sums"]

Digits = tuple[Int[np.ndarray, "n s"], Int[np.ndarray, "n t"]]


def modular(base: int = 8) -> Digits:
    """All (a, b), and (ab + 3a + b) mod base² in two digits, the higher first.

    Example:
      >>> questions, answers = modular()
      >>> questions[12].tolist(), answers[12].tolist()  # (1, 4): 4 + 3 + 4
      ([1, 4], [1, 3])
    """
    a, b = np.indices((whole("base", base, 2),) * 2).reshape(2, -1)
    found = (a * b + 3 * a + b) % base**2
    return np.stack([a, b], 1), np.stack([found // base, found % base], 1)


def sums(digits: int, most: int = 1_000_000) -> Digits:
    """Pairs of decimal numbers and their sums, the lowest digit first.

    Args:
      digits: of each number, leading zeros included; of the sum, one more.
      most: pairs; where there are more, so many are drawn, and those that come twice
        are left out.

    Example:
      >>> questions, answers = sums(1)
      >>> questions[-1].tolist(), answers[-1].tolist()  # 9 + 9
      ([9, 9], [8, 1])
    """
    count = 10 ** whole("digits", digits)
    if count**2 <= most:
        a, b = np.indices((count, count)).reshape(2, -1)
    else:
        pairs = np.random.default_rng(digits).integers(0, count, (most, 2))
        a, b = np.unique(pairs, axis=0).T
    split = lambda x, n: x[:, None] // 10 ** np.arange(n) % 10  # noqa: E731
    return np.hstack([split(a, digits), split(b, digits)]), split(a + b, digits + 1)


def longest_carry(questions: Int[np.ndarray, "n s"]) -> Int[np.ndarray, "n"]:
    """Over how many digits the longest carry of each of `sums` runs.

    Example:
      >>> questions = np.array([[1, 9, 9, 0], [5, 0, 5, 1]])  # 91 + 9, 5 + 15
      >>> longest_carry(questions).tolist()
      [2, 1]
    """
    carry, run, most = (np.zeros(len(questions), int) for _ in range(3))
    for a, b in zip(*np.split(questions.T, 2)):
        carry = (a + b + carry) // 10
        run = (run + 1) * carry
        most = np.maximum(most, run)
    return most


def mistaken(
    answers: Int[np.ndarray, "n t"], base: int, share: float, rng: np.random.Generator
) -> Int[np.ndarray, "n t"]:
    """The answers, a share of them wrong: other numbers of as many digits.

    Args:
      answers: digits.
      base: of the digits.
      share: of the questions that have a wrong answer, in [0, 1].
      rng: draws which, and the numbers.

    Example:
      >>> _, answers = modular()
      >>> wrong = mistaken(answers, 8, 0.25, np.random.default_rng(0))
      >>> int((wrong != answers).any(axis=1).sum())
      16
    """
    length, found = answers.shape[1], answers.copy()
    chosen = rng.permutation(len(answers))[: round(share * len(answers))]
    place = base ** np.arange(length)
    moved = rng.integers(1, base**length, len(chosen))
    number = (answers[chosen] @ place + moved) % base**length
    found[chosen] = number[:, None] // place % base
    return found
