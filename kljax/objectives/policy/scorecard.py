"""Which KL penalties public libraries have, as read in their code at a named commit.

Read, not run; what a library clamps (verl and OpenRLHF at ±10) has no gradient beyond.
Later versions may differ: a row is what its commit says, and no more.
"""

from typing import NamedTuple

from kljax.objectives.policy.legacy import Formula

__all__ = ["USES", "Use"]


class Use(NamedTuple):
    """One penalty of one library."""

    library: str
    commit: str
    read: str
    """The month of the version that was read."""
    setting: str
    formula: Formula


K1, K3 = Formula("k1", "loss"), Formula("k3", "loss")
# In PPO's surrogate, under GAE with discount and decay 1.
TO_GO, K3_TO_GO = (
    Formula(k, "reward_to_go", ratio="differentiated") for k in ("k1", "k3")
)

USES = (
    Use("AReaL", "4aef98d8d", "May 2026", "KDRL, rewards and teacher", K1),
    Use("AReaL", "4aef98d8d", "May 2026", "distillation alone",
        Formula("k1", "reward", ratio="differentiated")),
    Use("EasyDeL", "090a03b", "Apr 2026", "GRPO", K3),
    Use("EasyDeL", "090a03b", "Apr 2026", "PPO", TO_GO),
    Use("EasyDeL", "090a03b", "Apr 2026", "PPO, k3", K3_TO_GO),
    Use("MaxText", "e591f30c", "Aug 2026", "RL through tunix, default", K1),
    Use("MaxText", "e591f30c", "Aug 2026", "experimental GRPO", K3),
    Use("NeMo-RL", "PR 3256", "–", "teacher beside rewards", K3),
    Use("OpenRLHF", "3c3be62", "Aug 2026", "in the reward", TO_GO),
    Use("OpenRLHF", "3c3be62", "Aug 2026", "in the loss, k2", Formula("k2", "loss")),
    Use("OpenRLHF", "3c3be62", "Aug 2026", "in the loss, k3", K3),
    Use("simply", "e14c061", "Aug 2026", "GRPO", K3),
    Use("simply", "e14c061", "Aug 2026", "PPO", TO_GO),
    Use("TRL", "f2cd577", "Jul 2026", "GRPO, where beta > 0", K3),
    Use("TRL", "f2cd577", "Jul 2026", "GRPO, corrected by the ratio",
        Formula("k3", "loss", ratio="differentiated")),
    Use("TRL", "f2cd577", "Jul 2026", "RLOO",
        Formula("k1", "reward", "sequence", "differentiated")),
    Use("TRL", "f2cd577", "Jul 2026", "PPO", TO_GO),
    Use("TRL", "f2cd577", "Jul 2026", "PPO, k3", K3_TO_GO),
    Use("tunix", "c7d8950", "Aug 2026", "GRPO, default", K1),
    Use("tunix", "c7d8950", "Aug 2026", "PPO, default", K3_TO_GO),
    Use("verl", "b178a3c", "Jan 2026", "in the loss, default", K3),
    Use("verl", "b178a3c", "Jan 2026", "in the loss, k2", Formula("k2", "loss")),
    Use("verl", "b178a3c", "Jan 2026", "in the loss, abs", Formula("abs", "loss")),
    Use("verl", "b178a3c", "Jan 2026", "in the reward, default", TO_GO),
)  # fmt: skip
