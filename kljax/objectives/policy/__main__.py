"""What a KL penalty's gradient estimates, from the command line.

python -m kljax.objectives.policy certify --estimator k3 --placement loss
python -m kljax.objectives.policy matrix > experiments/results/policy_gradients.md
"""

import argparse
import sys
from collections.abc import Sequence

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; 0 on success, 1 with a line on stderr otherwise."""
    options = vars(_parser().parse_args(arguments))
    command = {"certify": _certify, "matrix": _matrix}[options.pop("command")]
    try:
        command(**options)
    except (ValueError, ArithmeticError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m kljax.objectives.policy",
        description="What the gradient of a KL penalty on a policy estimates.",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("certify", help="name the gradient of one formula")
    one.add_argument("--estimator", required=True, help="k1, k2, k3, abs or full")
    one.add_argument(
        "--placement",
        required=True,
        help="loss, reward, reward_to_go or straight_through",
    )
    one.add_argument("--level", default="token", help="token (default) or sequence")
    one.add_argument(
        "--ratio", default="none", help="none (default), detached or differentiated"
    )
    one.add_argument(
        "--off",
        type=float,
        default=0.0,
        help="how far the sampling policy is from the student (default 0: on policy)",
    )
    commands.add_parser("matrix", help="the page of all formulas, in Markdown")
    return parser


# What computes is imported late: help and errors of usage come at once.
def _certify(*, off: float, **parts: str) -> None:
    import jax

    from kljax.objectives.policy.certify import certify
    from kljax.objectives.policy.legacy import Formula
    from kljax.objectives.policy.space import Space

    formula = Formula(**parts)
    with jax.enable_x64(True):
        found = certify(formula, Space.drawn(jax.random.key(0), 4, 5, off=off))
    sampled = f"sampled {off:.0%} off policy" if off else "sampled on policy"
    print(f"{formula}, {sampled}:\n{found}")
    if found.label != formula.wanted:
        print(f"It should be that of {formula.wanted}: kljax.objectives.policy.penalty")


def _matrix() -> None:
    from kljax.objectives.policy.matrix import page

    print(page(), end="")


if __name__ == "__main__":
    sys.exit(main())
