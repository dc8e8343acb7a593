"""The page of all penalty formulas and what the gradient of each is."""

import jax

from kljax.objectives.policy.certify import Certificate, certify_all
from kljax.objectives.policy.legacy import Formula, formulas
from kljax.objectives.policy.scorecard import USES
from kljax.objectives.policy.space import Space

__all__ = ["page"]

TOP = """# What the gradient of a KL penalty estimates

Written by `python -m kljax.objectives.policy matrix`. A formula is an estimator of the
reverse KL between a policy and its teacher, a placement, a level and a ratio, as
`kljax.objectives.policy.legacy` explains them. The expectation of each gradient is
summed over all {count} sequences of {length} tokens out of {vocab}, in float64, and
compared with the exact derivatives of thirteen divergences. On policy, samples come
from the policy; off policy, from one {off:.0%} of the way to another.

*local*: of the next token, summed over the prefixes as they are sampled. *sequence*: of
the laws of whole sequences. ✓: what the formula's name promises, the reverse KL, local
per token, of sequences per sequence or to go. *biased*: of no divergence, nor of a sum
of two, with the cosine of the angle to what it promises (it depends on the space). †:
the teacher does not enter the gradient at all.

| estimator | placement | level | ratio | on policy | off policy |
| --- | --- | --- | --- | --- | --- |
"""

LIBRARIES = """
## What libraries have

As read in their code at the named commit, and not run; later versions may differ.
Coefficients and defaults of 0 are left out, and what is clamped (verl and OpenRLHF
clamp at ±10) has no gradient beyond. A library that updates several times on one batch
is off policy from the second time on. *To go* stands for rewards per token under GAE
with discount and decay 1.

| library | commit | read | setting | formula | on policy | off policy |
| --- | --- | --- | --- | --- | --- | --- |
"""


def page(vocab: int = 4, length: int = 5, off: float = 0.1, seed: int = 0) -> str:
    """The page, in Markdown.

    Args:
      vocab, length, off, seed: of the `Space` that it is computed on.
    """
    functions = {str(one): one for one in formulas()}
    with jax.enable_x64(True):
        away = Space.drawn(jax.random.key(seed), vocab, length, off=off)
        columns = [certify_all(functions, one) for one in (away.on_policy, away)]
    count = len(away.tokens)
    lines = [TOP.format(count=f"{count:,}", length=length, vocab=vocab, off=off)]
    for name, one in functions.items():
        cells = [_cell(one, column[name]) for column in columns]
        parts = one.estimator, one.placement, one.level, one.ratio
        lines.append(f"| {' | '.join([*parts, *cells])} |\n")
    lines.append(LIBRARIES)
    for use in USES:
        one, words = use.formula, str(use.formula)
        cells = [_cell(one, column[words]) for column in columns]
        lines.append(f"| {' | '.join([*use[:4], words, *cells])} |\n")
    return "".join(lines)


def _cell(formula: Formula, found: Certificate) -> str:
    words = found.label
    if found.terms is None:
        words += f" ({found.cosines[formula.wanted]:.2f})"
    return words + " ✓" * (words == formula.wanted) + " †" * (not found.teacher)
