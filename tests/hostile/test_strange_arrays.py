"""Arguments that are no arrays of real numbers: refused by name, whoever takes them."""

import jax
import jax.numpy as jnp
import numpy as np
import public_calls
import public_rooms
import pytest

from kljax.arguments import as_array, floating, floats
from kljax.divergences import Logits, forward_kl, token_divergence

STRANGE = {
    "None": lambda x: None,
    "a dict": lambda x: {"x": x},
    "text": lambda x: "x",
    "a ragged list": lambda x: [[1.0, 2.0], [3.0]],
    "complex": lambda x: jnp.zeros(jnp.shape(x), jnp.complex64),
    "an object": lambda x: np.full(jnp.shape(x), None, dtype=object),
}
ABOVE = (
    "adversarial_loss",
    "balance_loss",
    "discriminator_loss",
    "distillation_loss",
    "fuse",
    "greedy",
    "mutual_loss",
    "per_sequence",
    "sample",
    "warp",
)
TABLE = public_calls.TABLE | {name: public_rooms.TRACED[name] for name in ABOVE}
OPTIONAL = {"weights", "weight", "bias", "soft_cap", "log_behavior", "temperature"}
OPTIONAL |= {"log_weights", "log_weights_p", "log_weights_q", "perturbed_logits"}


@pytest.mark.parametrize("name", TABLE)
def test_what_is_no_array_of_numbers_is_refused_by_name(name):
    function, arrays = TABLE[name]
    for argument, value in arrays.items():
        if not isinstance(value, jax.Array) or value.dtype == bool:
            continue
        for kind, strange in STRANGE.items():
            if kind == "None" and argument in OPTIONAL:
                continue
            with pytest.raises((TypeError, ValueError), match=argument) as found:
                function(**arrays | {argument: strange(value)})
            last = found.traceback[-1]
            assert "kljax" in str(last.path), (argument, kind, last)


def test_floats_of_8_bits_are_widened():
    x, y = jnp.array([[0.0, 1.0, 2.0]]), jnp.array([[2.0, 1.0, 0.5]])
    narrow = [z.astype(jnp.float8_e4m3fn) for z in (x, y)]
    assert forward_kl(*narrow) == forward_kl(x, y)  # all are numbers of 8 bits
    assert floats("x", narrow[0]).dtype == floating("x", narrow[0]).dtype == jnp.float32


def test_arrays_stay_what_they_are():
    x = jnp.ones(3, jnp.bfloat16)
    assert as_array("x", x) is x
    assert floats("x", x) is x
    assert floating("x", np.float64(1.0)).dtype == jnp.float32


def test_logits_without_their_side_are_shown_the_remedy():
    x = jnp.zeros((2, 3))
    with pytest.raises(TypeError, match=r"p must be .* Logits\(\.\.\.\), got an array"):
        token_divergence(x, Logits(x), "forward_kl")
