"""What a student is judged by: every measure at every held-out token."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from experiments.distilled_lm.students import Student
from kljax.data.batching import in_parts
from kljax.divergences import Hidden, dense_logits
from kljax.metrics import calibration_error, token_measures
from kljax.typing import Array, Float, Int, PyTree

DISTANCES = ("forward_kl", "reverse_kl", "jensen_shannon", "skew_forward_kl")
MEASURES = ("nats", *DISTANCES, "entropy", "agreement", "accuracy", "confidence")
BATCH = 8

Scores = dict[str, Float[np.ndarray, "n"]]
"""Per measure the mean of every window, and "ece", one number."""


def judge(student: Student) -> Callable[..., dict[str, Array]]:
    """Compiled measures of a batch of windows: of the student, or of the teacher."""

    def measure(
        params: PyTree | None, states: Array, head: Array, bias: Any, window: Array
    ) -> dict[str, Array]:
        p = dense_logits(student.teacher.side(states, head, bias))
        tokens, labels = window[:, :-1], window[:, 1:]
        if params is None:
            return token_measures(labels, p)
        q = dense_logits(student.side(params, tokens))
        return token_measures(labels, q, p_logits=p, distances=DISTANCES)

    return jax.jit(measure)


def scores(
    measure: Callable[..., dict[str, Array]],
    params: PyTree | None,
    teacher: Hidden,
    windows: Int[np.ndarray, "n t"],
) -> dict[str, Any]:
    """Means per window as lists, the ECE, and the reliability's raw material."""
    found = in_parts(
        lambda states, rows: measure(params, states, teacher.head, teacher.bias, rows),
        BATCH,
        teacher.states,
        windows,
    )
    tokens = {k: np.asarray(v, np.float64) for k, v in found.items()}
    confidence = np.clip(tokens["confidence"], 0, 1)
    result: dict[str, Any] = {k: v.mean(axis=1).tolist() for k, v in tokens.items()}
    result["ece"] = calibration_error(confidence, tokens["accuracy"])
    order = np.argsort(confidence.reshape(-1), kind="stable")
    groups = np.array_split(order, 12)
    for name in ("confidence", "accuracy"):
        flat = tokens[name].reshape(-1)
        result[f"curve/{name}"] = [float(flat[group].mean()) for group in groups]
    return result
