"""The optimizers that most runs want, in one line each."""

import optax

from kljax.arguments import whole

__all__ = ["adam", "clipped", "momentum", "warmup_cosine"]


def warmup_cosine(
    rate: float, steps: int, *, warmup: float = 0.1, final: float = 0.05
) -> optax.Schedule:
    """A linear warm-up to the rate, then a cosine down to a share of it.

    Args:
        rate: the highest learning rate, > 0.
        steps: of the run, at least 1.
        warmup: share of the steps in which the rate grows from 0, in [0, 1).
        final: share of the rate that is left at the end.

    Returns:
        The learning rate as a function of the number of finished steps.

    Example:
        >>> schedule = warmup_cosine(1.0, 100)
        >>> [round(float(schedule(n)), 3) for n in (0, 10, 100)]
        [0.0, 1.0, 0.05]
    """
    rising = max(1, int(warmup * whole("steps", steps)))
    return optax.warmup_cosine_decay_schedule(
        0.0, rate, rising, max(2, steps), rate * final
    )


def clipped(
    rule: optax.GradientTransformation, norm: float = 1.0
) -> optax.GradientTransformation:
    """A rule that is given gradients of global norm `norm` at most.

    Example:
        >>> optimizer = clipped(optax.contrib.muon(1e-3))
    """
    return optax.chain(optax.clip_by_global_norm(norm), rule)


def adam(
    rate: float | optax.Schedule,
    *,
    clip: float = 1.0,
    b1: float = 0.9,
    b2: float = 0.999,
    weight_decay: float = 0.0,
    flat: bool = False,
) -> optax.GradientTransformation:
    """AdamW behind a clip.

    Args:
        rate: learning rate, a number or a schedule such as `warmup_cosine`.
        clip: largest global norm of the gradient.
        b1, b2: how long gradients and their squares are remembered.
        weight_decay: share of a parameter that a rate of 1 takes away in a step.
        flat: whether all parameters are one vector inside: faster for many small ones.

    Returns:
        An optax transformation.

    References:
        Kingma and Ba (2015), algorithm 1; Loshchilov and Hutter (2019), algorithm 2.

    Example:
        >>> optimizer = adam(warmup_cosine(3e-4, 1000), b2=0.95, weight_decay=0.01)
    """
    rule = clipped(optax.adamw(rate, b1=b1, b2=b2, weight_decay=weight_decay), clip)
    return optax.flatten(rule) if flat else rule


def momentum(
    rate: float | optax.Schedule, *, decay: float = 0.9, weight_decay: float = 5e-4
) -> optax.GradientTransformation:
    """Nesterov's momentum with an L2 penalty: what image classifiers are trained by.

    Args:
        rate: learning rate, a number or a schedule such as optax's cosine.
        decay: share of the velocity that a step leaves.
        weight_decay: added to the gradient, times the parameters.

    Returns:
        An optax transformation.

    References:
        Sutskever et al. (2013), "On the importance of initialization and momentum".

    Example:
        >>> optimizer = momentum(optax.cosine_decay_schedule(0.1, 1000))
    """
    return optax.chain(
        optax.add_decayed_weights(weight_decay),
        optax.sgd(rate, momentum=decay, nesterov=True),
    )
