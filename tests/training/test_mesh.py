"""Sharded steps: four simulated devices, and two processes over loopback."""

import socket

import jax
import numpy as np
import pytest
import training_processes as processes

from kljax.training import data_mesh, model_mesh, shard_batch, start_processes


def test_four_devices_equal_one():
    context = processes.server()
    answers = context.Queue()
    child = context.Process(target=processes.sharded_difference, args=(answers,))
    child.start()
    devices, difference = answers.get(timeout=60)
    child.join()
    assert devices == 4
    assert difference <= 1e-6


@pytest.mark.slow
def test_two_processes_train_together_and_resume(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = processes.server()
    answers = context.Queue()
    children = [
        context.Process(target=processes.joined, args=(answers, tmp_path, port, number))
        for number in range(2)
    ]
    for child in children:
        child.start()
    try:
        found = [answers.get(timeout=60) for _ in children]
        for child in children:
            child.join(20)
    finally:
        for child in children:
            child.kill()
    assert sorted(number for number, *_ in found) == [0, 1]
    assert all(size == 4 and same for _, size, same, _ in found)
    np.testing.assert_array_equal(found[0][3], found[1][3])


def test_batches_that_do_not_divide_are_named():
    mesh = data_mesh(jax.devices()[:1])
    placed = shard_batch({"x": np.ones((4, 2)), "temperature": 2.0}, mesh)
    assert placed["x"].shape == (4, 2)
    assert placed["temperature"].shape == ()

    class Two:
        shape = {"data": 2}  # noqa: RUF012

    with pytest.raises(ValueError, match=r"2 devices .* batch\['x'\] .*\(3, 2\)"):
        shard_batch({"x": np.ones((3, 2))}, Two())


def test_start_up_wants_all_or_nothing():
    with pytest.raises(ValueError, match="together or not at all"):
        start_processes("127.0.0.1:1234")


def test_meshes_of_models_cut_examples_over_two_axes():
    devices = jax.devices()
    mesh = model_mesh(fsdp=len(devices), devices=devices)
    assert dict(mesh.shape) == {"data": 1, "fsdp": len(devices), "tensor": 1}
    placed = shard_batch({"x": np.ones((2 * len(devices), 3))}, mesh)["x"]
    assert placed.addressable_shards[0].data.shape == (2, 3)
    with pytest.raises(ValueError, match="fsdp is 1 and tensor 7; their product"):
        model_mesh(tensor=7, devices=devices)
