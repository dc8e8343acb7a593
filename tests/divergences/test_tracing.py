"""How a loss reaches its kernel: each file once; what a call outside `jit` costs."""

import itertools
import pathlib
import sys

import jax
import jax.numpy as jnp

import kljax
from kljax.divergences import Hidden, forward_kl, token_divergence

ROOT = f"{pathlib.Path(kljax.__file__).parent}/"
ENGINE = ("kernels/logits", "generators")


def entered(function, *arguments):
    """The files of kljax whose functions are called, in order."""
    found = []

    def look(frame, event, _):  # some million times: nothing but a comparison
        path = frame.f_code.co_filename
        if event == "call" and path.startswith(ROOT):
            found.append(path.removeprefix(ROOT))

    before = sys.getprofile()
    sys.setprofile(look)
    try:
        function(*arguments)
    finally:
        sys.setprofile(before)
    return found


def changes(files):
    return sum(a != b for a, b in itertools.pairwise(files))


def test_the_fused_loss_passes_each_file_once():
    p = Hidden(jnp.ones((32, 8)), jnp.ones((8, 64)))
    q = Hidden(jnp.ones((32, 4)), jnp.ones((4, 64)))
    loss = jax.jit(jax.value_and_grad(lambda q: token_divergence(p, q, "forward_kl")))
    jax.clear_caches()
    files = entered(loss.trace, q)
    door = files[: files.index("kernels/linear/fused.py") + 1]
    # The public function, two of the divergence by its name, the checks and back.
    assert len(set(door)) <= 5
    assert changes(door) <= 5
    # All that is not the row engine, forward and backward.
    outside = [f for f in files if not f.startswith(ENGINE)]
    assert len(set(outside)) <= 6
    assert changes(outside) <= 13


def eager_calls(divergence):
    """Python functions called by a gradient outside `jit`, and programs run by it."""
    p, q = jax.random.normal(jax.random.key(0), (2, 32, 1000))
    step = jax.value_and_grad(lambda q: jnp.sum(divergence(p, q)))
    for _ in range(2):
        step(q)
    names = []

    def look(frame, event, _):
        if event == "call":
            names.append(frame.f_code.co_name)

    before = sys.getprofile()
    sys.setprofile(look)
    try:
        step(q)
    finally:
        sys.setprofile(before)
    return len(names), names.count("_pjit_call_impl") + names.count("apply_primitive")


def test_an_eager_gradient_is_no_dearer_than_the_plain_form():
    def plain(p, q):
        log_p, log_q = jax.nn.log_softmax(p), jax.nn.log_softmax(q)
        return jnp.sum(jnp.exp(log_p) * (log_p - log_q), axis=-1)

    calls, programs = eager_calls(plain)
    own_calls, own_programs = eager_calls(forward_kl)
    assert programs > 0
    assert own_programs <= programs
    assert own_calls <= 1.2 * calls
