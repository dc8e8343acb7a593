"""A training gradient on a mesh of eight devices, run in a process of its own."""

import multiprocessing
import time

import numpy as np
import transformer_reference as reference


def server():
    """Where the child comes from."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["jax", "flax.nnx", __name__])
    return context


def difference(answers):
    """The shape of a shard, and the largest difference from one device."""
    import jax

    jax.config.update("jax_num_cpu_devices", 8)
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    from kljax.models.language.sharding import shard_params
    from kljax.models.language.stacking import stack_layers
    from kljax.models.language.transformer import TransformerConfig, transformer

    config = TransformerConfig(
        vocab_size=98,
        width=32,
        depth=2,
        heads=4,
        kv_heads=2,
        hidden=64,
        qkv_bias=True,
    )
    apply, initial = transformer(config)
    params = stack_layers(reference.draw(initial))
    tokens = np.random.default_rng(0).integers(0, 98, (8, 6))

    def loss(params, tokens):
        log_q = jax.nn.log_softmax(apply(params, tokens))
        return -jax.numpy.take_along_axis(log_q, tokens[..., None], -1).mean()

    gradient = jax.jit(jax.value_and_grad(loss))
    one = gradient(params, tokens)
    devices = np.asarray(jax.devices()).reshape(2, 2, 2)
    mesh = Mesh(devices, ("data", "fsdp", "tensor"))
    with jax.set_mesh(mesh):
        examples = NamedSharding(mesh, PartitionSpec(("data", "fsdp")))
        placed = shard_params(config, params, mesh)
        many = gradient(placed, jax.device_put(tokens, examples))
    query = placed["layers"]["stacked"][0]["attention"]["query"]["kernel"]
    shard = query.addressable_shards[0].data.shape
    one, many = (jax.tree.map(np.asarray, tree) for tree in (one, many))
    far = jax.tree.map(lambda a, b: float(np.abs(a - b).max()), one, many)
    answers.put((shard, max(jax.tree.leaves(far)), time.process_time()))
