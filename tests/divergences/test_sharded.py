"""Logits over a simulated mesh of 2 × 4 give what one device gives; small exchanges."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import references

import kljax.divergences as kd

N, V = 5, 30  # neither axis divides them
RNG = np.random.default_rng(5)
P = np.float32(RNG.normal(size=(N, V)) * 2)
Q = np.float32(P + RNG.normal(size=P.shape) * np.geomspace(1e-3, 1, N)[:, None] + 90)
WEIGHTS = np.float32(RNG.normal(size=N))
AUTO = (jax.sharding.AxisType.Auto,) * 2


def mesh(shape=(2, 4), **options):
    return jax.make_mesh(shape, ("data", "model"), **{"axis_types": AUTO, **options})


def sharded(p, q, name, axes=("data", "model"), over=None, **options):
    where = {"token_axis": axes[0], "vocab_axis": axes[1]}
    return kd.divergence_sharded(p, q, name, mesh=over or mesh(), **where, **options)


def close(got, want, relative, absolute=0.0):
    np.testing.assert_allclose(np.asarray(got), np.asarray(want), relative, absolute)


def values_and_gradients(function, names, p, q):
    def one(name):
        def loss(p, q, temperature):
            rows = function(p, q, name, temperature=temperature)
            return jnp.vdot(WEIGHTS, rows), rows

        return jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True)(p, q, 1.3)

    return jax.jit(lambda: [one(name) for name in names])()


@pytest.mark.parametrize(
    "names",
    [["reverse_kl"], pytest.param([*kd.names(), "own"], marks=pytest.mark.slow)],
)
def test_values_and_gradients_equal_those_of_one_device(names):
    users = lambda u: u * jnp.log(u) + (u - 1) ** 2
    names = [kd.from_generator(users) if n == "own" else n for n in names]
    found = values_and_gradients(sharded, names, P, Q)
    expected = values_and_gradients(kd.divergence, names, P, Q)
    for name, ((_, rows), slopes), ((_, want), exact) in zip(names, found, expected):
        # Small sums are those of small terms, on either side of the exchange.
        close(rows, want, 2e-6)
        for got, whole in zip(slopes, exact):
            close(got, whole, 1e-6, 1e-6 * np.abs(whole).max())
        if isinstance(name, str):
            cool = [references.softmax(np.float64(x) / 1.3) for x in (P, Q)]
            close(rows, references.VALUES[name](*cool), 2e-5)


@pytest.mark.parametrize(
    "axes",
    [
        (None, "model"),
        *(pytest.param((a, None), marks=pytest.mark.slow) for a in ("data", None)),
    ],
)
def test_one_axis_alone_and_a_mask_over_three_axes(axes):
    p, q = P.reshape(1, N, V), Q.reshape(1, N, V)
    where = RNG.uniform(size=p.shape) < 0.7
    where[0, 2] = False

    def loss(function):
        def of(q):
            return jnp.sum(function(q) ** 2)

        return jax.jit(jax.value_and_grad(of))(q)

    got = loss(lambda q: sharded(p, q, "jensen_shannon", axes, where=where))
    want = loss(lambda q: kd.divergence(p, q, "jensen_shannon", where=where))
    for x, y in zip(got, want):
        close(x, y, 1e-6, 1e-8)


def test_missing_outcomes_infinite_rows_and_a_shorter_vocabulary():
    p, q = P.copy(), Q.copy()
    p[0, 3] = q[0, 3] = q[1, 29] = -np.inf
    p[2, :8] = -np.inf  # a device without any
    p[3], q[4] = -np.inf, -np.inf
    names = "forward_kl", "total_variation"

    @jax.jit
    def found(q):
        def of(f, name):
            total = lambda q: (jnp.sum(d := f(p, q, name)), d)
            return jax.grad(total, has_aux=True)(q)

        each = [[of(f, n) for f in (sharded, kd.divergence)] for n in names]
        short = [
            f(P[:, :20], q, "forward_kl", pad_vocab=True)
            for f in (sharded, kd.divergence)
        ]
        return each, short

    each, short = jax.device_get(found(q))
    for name, ((slope, got), (exact, want)) in zip(names, each, strict=True):
        close(got, want, 1e-6)
        close(slope, exact, 1e-6, 1e-8)
        assert np.isinf(got[1]) == (name == "forward_kl") and got[3] == got[4] == 0
    close(*short, 1e-6)


@pytest.mark.slow
def test_second_order_forward_mode_and_the_parameters():
    def change(function):
        def loss(q, temperature, alpha):
            rows = function(P, q, "alpha", temperature=temperature, alpha=alpha)
            return jnp.sum(rows**2)

        point, along = (Q - 90, 1.3, 0.3), (Q - 90, 1.0, 1.0)
        return jax.jit(lambda: jax.jvp(jax.grad(loss, (0, 2)), point, along))()

    for got, want in zip(*map(jax.tree.leaves, map(change, (sharded, kd.divergence)))):
        close(got, want, 1e-5, 1e-5 * np.abs(want).max())


def test_arrays_that_lie_on_an_explicit_mesh():
    over = mesh(axis_types=(jax.sharding.AxisType.Explicit,) * 2)
    spec = jax.NamedSharding(over, jax.P("data", None, "model"))
    shape = (2, 2, 24)
    p, q = (np.resize(x, shape) for x in (P, Q))
    on = [jax.device_put(x, spec) for x in (p, q)]
    got = sharded(*on, "forward_kl", over=over)
    close(got, kd.divergence(p, q, "forward_kl"), 1e-6)


def collectives(function, axes, shape=(64, 512), **sharding):
    spec = jax.NamedSharding(mesh(), jax.P(*axes))
    logits = jax.ShapeDtypeStruct(shape, jnp.float32, sharding=spec)
    gradient = jax.value_and_grad(lambda p, q: jnp.sum(function(p, q)), argnums=1)
    program = jax.jit(gradient).lower(logits, logits).compile()
    # A long tuple has comments, with an equals sign in them.
    text = re.sub(r"/\*.*?\*/", "", program.as_text())
    found = []
    kinds = r"(all-\w+|collective-\w+|reduce-scatter)(?:-start)?\("
    for result, kind in re.findall(r"= (\S+|\([^=]*?\)) " + kinds, text):
        dims = re.findall(r"\w+\[([\d,]*)\]", result)
        sizes = [np.prod([int(n) for n in d.split(",") if n]) for d in dims]
        found.append((kind, int(sum(sizes))))
    return found


@pytest.mark.inspected
@pytest.mark.parametrize("name", ["forward_kl", "jensen_shannon"])
def test_collectives_are_a_few_numbers_a_token(name):
    tokens = 64 // 2
    found = collectives(lambda p, q: sharded(p, q, name), ("data", "model"))
    # Maxima, masses, terms with the normaliser's share, the gradient's mean; the total
    # is a scalar.
    assert {kind for kind, _ in found} == {"all-reduce"}
    reduced = sorted(size for _, size in found)
    assert reduced == sorted([1, *(n * tokens for n in (2, 2, 2, 1))]), found


@pytest.mark.optimized
def test_a_hard_row_is_measured_again_on_its_own_devices():
    # Nearly flat but for one outcome, on one of the two groups of devices.
    p, q = np.float32(1e-3 * np.random.default_rng(9).normal(size=(2, 4, 4096)))
    p[0, 7] += 2
    want = references.kl(references.softmax(p), references.softmax(q))
    found = jax.jit(lambda p, q: sharded(p, q, "forward_kl"))(p, q)
    close(found, want, 1e-5)


@pytest.mark.inspected
def test_data_parallel_rows_are_not_gathered():
    split = lambda p, q: sharded(p, q, "forward_kl", ("data", None))
    shape = (64, 32768)
    assert collectives(split, ("data", None), shape) == [("all-reduce", 1)]
    # Which is what blocks of rows do, on a CPU, where the mesh is not known to them.
    plain = lambda p, q: kd.divergence(p, q, "forward_kl")
    gathered = collectives(plain, ("data", None), shape)
    assert ("all-gather", 64 * 32768) in gathered


def test_a_nan_shows_in_its_row_alone():
    """On whichever device it lies; where it is taken away nowhere."""
    p, q, where = P.copy(), Q.copy(), np.ones((N, V), bool)
    q[1, -1] = p[3, 0] = np.nan
    p[4, 7], where[4, 7] = np.nan, False

    def both(p, q):
        rows = lambda p, q: sharded(p, q, "jensen_shannon", where=where)
        loss = lambda p, q: (jnp.vdot(np.abs(WEIGHTS), x := rows(p, q)), x)
        return jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(p, q)

    (_, rows), gradients = jax.device_get(jax.jit(both)(p, q))
    broken = np.isin(np.arange(N), (1, 3))
    assert (np.isnan(rows) == broken).all()
    for slope in gradients:
        assert np.isnan(slope[broken]).all() and np.isfinite(slope[~broken]).all()


def test_bad_arguments():
    with pytest.raises(ValueError, match="vocab_axis 'expert' is not an axis"):
        sharded(P, Q, "forward_kl", ("data", "expert"))
    with pytest.raises(ValueError, match="are both 'data'"):
        sharded(P, Q, "forward_kl", ("data", "data"))
    with pytest.raises(ValueError, match="must be numbers, got arrays"):
        sharded(P, Q, kd.Alpha(np.ones(N)))
    with pytest.raises(ValueError, match="temperature must be one number"):
        sharded(P, Q, "forward_kl", temperature=np.ones((N, 1)))
    with pytest.raises(ValueError, match="temperature must be positive"):
        sharded(P, Q, "forward_kl", temperature=0.0)
    with pytest.raises(ValueError, match="pad_vocab=True"):
        sharded(P[:, :9], Q, "forward_kl")
    with pytest.raises(TypeError, match="p_logits must be floating-point"):
        sharded(np.int32(P), Q, "forward_kl")
