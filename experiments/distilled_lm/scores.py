"""What a student is judged by: every measure at every held-out token."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.distilled_lm.students import Student
from kljax import divergences
from kljax.divergences import Hidden, dense_logits
from kljax.metrics import calibration_error
from kljax.typing import Array, Float, Int, PyTree

DISTANCES = ("forward_kl", "reverse_kl", "jensen_shannon", "skew_forward_kl")
MEASURES = ("nats", *DISTANCES, "entropy", "agreement", "accuracy", "confidence")
BATCH = 8

Scores = dict[str, Float[np.ndarray, "n"]]
"""Per measure the mean of every window, and "ece", one number."""


def token_measures(p: Array | None, q: Array, labels: Array) -> dict[str, Array]:
    """Per token, from logits; without a teacher's `p` those of the text alone.

    "nats" is minus the log-probability of the text, "agreement" whether both sides'
    first choices are the same, "accuracy" whether the model's is the text's.
    """
    log_q = jax.nn.log_softmax(q, axis=-1)
    first = jnp.argmax(q, axis=-1)
    found = {
        "nats": -jnp.take_along_axis(log_q, labels[..., None], axis=-1)[..., 0],
        "entropy": divergences.entropy(q),
        "accuracy": (first == labels).astype(jnp.float32),
        "confidence": jnp.exp(jnp.max(log_q, axis=-1)),
    }
    if p is not None:
        found |= {name: divergences.divergence(p, q, name) for name in DISTANCES}
        found["agreement"] = (first == jnp.argmax(p, axis=-1)).astype(jnp.float32)
    return found


def judge(student: Student) -> Callable[..., dict[str, Array]]:
    """Compiled measures of a batch of windows: of the student, or of the teacher."""

    def measure(
        params: PyTree | None, states: Array, head: Array, bias: Any, window: Array
    ) -> dict[str, Array]:
        p = dense_logits(student.teacher.side(states, head, bias))
        tokens, labels = window[:, :-1], window[:, 1:]
        if params is None:
            return token_measures(None, p, labels)
        return token_measures(p, dense_logits(student.side(params, tokens)), labels)

    return jax.jit(measure)


def scores(
    measure: Callable[..., dict[str, Array]],
    params: PyTree | None,
    teacher: Hidden,
    windows: Int[np.ndarray, "n t"],
) -> dict[str, Any]:
    """Means per window as lists, the ECE, and the reliability's raw material."""
    parts = []
    for start in range(0, len(windows), BATCH):
        rows = np.arange(start, start + BATCH) % len(windows)
        states = np.asarray(teacher.states)[rows]
        found = measure(params, states, teacher.head, teacher.bias, windows[rows])
        left = min(BATCH, len(windows) - start)
        parts.append({k: np.asarray(v, np.float64)[:left] for k, v in found.items()})
    tokens = {k: np.concatenate([part[k] for part in parts]) for k in parts[0]}
    confidence = np.clip(tokens["confidence"], 0, 1)
    result: dict[str, Any] = {k: v.mean(axis=1).tolist() for k, v in tokens.items()}
    result["ece"] = calibration_error(confidence, tokens["accuracy"])
    order = np.argsort(confidence.reshape(-1), kind="stable")
    groups = np.array_split(order, 12)
    for name in ("confidence", "accuracy"):
        flat = tokens[name].reshape(-1)
        result[f"curve/{name}"] = [float(flat[group].mean()) for group in groups]
    return result
