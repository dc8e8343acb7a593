"""What is wrong with a checkpoint is said with its file and tensor."""

import contextlib
import dataclasses
import json
import os
import pathlib
import pickle
import shutil
import struct
import subprocess
import sys
import warnings

import jax
import numpy as np
import pytest

from kljax.errors import CheckpointError, DataError
from kljax.models.files.config import read_config
from kljax.models.files.pretrained import from_pretrained, save_pretrained
from kljax.models.files.saving import finish_save
from kljax.models.files.tensors import open_safetensors, read, write_safetensors
from kljax.models.files.tokenizer import Tokenizer
from kljax.models.files.weights import structure
from kljax.models.language.transformer import TransformerConfig

transformers = pytest.importorskip("transformers")

CONFIG = TransformerConfig(vocab_size=61, width=32, depth=2, heads=4, kv_heads=2)
UP = "model.layers.1.mlp.up_proj.weight"
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"


@pytest.fixture(scope="module")
def params():
    shapes = structure(CONFIG)[1]
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda x: rng.normal(size=x.shape).astype("f4"), shapes)


@pytest.fixture
def folder(tmp_path, params):
    save_pretrained(tmp_path / "whole", CONFIG, params)
    save_pretrained(tmp_path / "shards", CONFIG, params, shard_bytes=20_000)
    return tmp_path


def fields(file, **changes):
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def tensors(file, change):
    """Rewrites a file of weights after a change of its dict of arrays."""
    import safetensors.numpy

    arrays = safetensors.numpy.load_file(file)
    change(arrays)
    safetensors.numpy.save_file(arrays, file)


def refuse(source, *parts):
    with pytest.raises(CheckpointError) as caught:
        from_pretrained(source)
    said = str(caught.value)
    assert all(part in said for part in parts), said
    assert "Remedy" in said or "cannot do" in said or "expected" in said


def test_tensors_that_do_not_fit(folder):
    file = folder / "whole" / WEIGHTS
    before = file.read_bytes()
    tensors(file, lambda a: a.pop(UP))
    refuse(file.parent, f"no tensor {UP} of the 20")
    file.write_bytes(before)
    tensors(file, lambda a: a.update({UP: a[UP][:-1].copy()}))
    refuse(file.parent, str(file), UP, "shape (127, 32)", "says (128, 32)")
    file.write_bytes(before)
    tensors(file, lambda a: a.update({"model.vision.weight": np.ones(3, "f4")}))
    refuse(file.parent, str(file), "model.vision.weight belongs to no part")
    file.write_bytes(before)
    tensors(file, lambda a: a.update({UP: a[UP].astype(np.int8)}))
    refuse(file.parent, str(file), UP, "dtype I8")
    file.write_bytes(before)
    fields(folder / "whole/config.json", intermediate_size=96)
    refuse(file.parent, str(file), "mlp.gate_proj.weight has shape (128, 32)")


def test_files_that_are_damaged(folder):
    whole = folder / "whole"
    file = whole / WEIGHTS
    content = file.read_bytes()
    file.write_bytes(content[:-8])
    refuse(whole, str(file), "truncated, ", "ends at byte")
    file.write_bytes(content[:100])
    refuse(whole, str(file), "not a safetensors file, or damaged")
    file.write_bytes(b"")
    refuse(whole, str(file), "not a safetensors file")
    file.write_bytes(struct.pack("<Q", 1 << 60) + content[8:])
    refuse(whole, str(file), "header of")
    file.write_bytes(content.replace(b'"shape":[32]', b'"shape":[31]', 1))
    refuse(whole, str(file), "takes 128 bytes for (31,)")
    file.write_bytes(content)
    (whole / "config.json").write_text("{")
    refuse(whole, "config.json: not readable JSON")
    (whole / "config.json").unlink()
    refuse(whole, "no config.json")


def test_a_file_cut_while_it_is_read(folder):
    file = folder / "whole" / WEIGHTS
    opened = open_safetensors(file)
    file.write_bytes(file.read_bytes()[:5000])
    with pytest.raises(
        CheckpointError, match=r"truncated, model\.embed_tokens\.weight"
    ):
        read(opened["model.embed_tokens.weight"], np.float32)


def test_shards_that_are_missing(folder):
    shards = folder / "shards"
    names = sorted(x.name for x in shards.glob("model-*"))
    assert len(names) > 2
    moved = (shards / names[1]).rename(folder / "moved")
    refuse(shards, names[1], "missing")
    (shards / names[1]).write_bytes((shards / names[0]).read_bytes())
    refuse(shards, names[1], "holds no", INDEX)
    moved.rename(shards / names[1])
    from_pretrained(shards)
    fields(shards / INDEX, weight_map={UP: "../whole/model.safetensors"})
    refuse(shards, INDEX, "not the name of a shard")
    (shards / INDEX).write_text("[]")
    refuse(shards, "not an index of shards")


def test_saving_over_shards_leaves_no_stale_index(folder, params):
    save_pretrained(folder / "shards", CONFIG, params)
    assert not (folder / "shards" / INDEX).exists()
    model = from_pretrained(folder / "shards")
    np.testing.assert_array_equal(
        model.params["head"]["kernel"], params["head"]["kernel"]
    )


class Stopped(Exception):
    pass


def stopping(act, left):
    """A rename or removal that fails when `left[0]` others have been made."""

    def instead(self, *args, **kwargs):
        if left[0] == 0:
            raise Stopped
        left[0] -= 1
        return act(self, *args, **kwargs)

    return instead


FORMS = {"single": 1 << 30, "shards": 12_000}


@pytest.mark.parametrize("before", FORMS)
@pytest.mark.parametrize("after", FORMS)
def test_a_save_that_is_stopped_leaves_one_model(before, after, tmp_path, monkeypatch):
    """At every rename and every removal: the old model or the new one, whole."""
    config = dataclasses.replace(CONFIG, depth=1, hidden=32)
    shapes = structure(config)[1]
    models = [
        jax.tree.map(lambda x, i=i: np.full(x.shape, i, "f4"), shapes) for i in (1, 2)
    ]
    save_pretrained(tmp_path / "old", config, models[0], shard_bytes=FORMS[before])
    read, finished = [], False
    while not finished:
        folder = tmp_path / f"{len(read)}"
        shutil.copytree(tmp_path / "old", folder)
        left = [len(read)]
        with monkeypatch.context() as patched:
            for act in (pathlib.Path.replace, pathlib.Path.unlink):
                patched.setattr(pathlib.Path, act.__name__, stopping(act, left))
            with contextlib.suppress(Stopped):
                save_pretrained(folder, config, models[1], shard_bytes=FORMS[after])
                finished = True
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*out of date")
            found = jax.tree.leaves(from_pretrained(folder).params)
        (value,) = {float(x) for leaf in found for x in (leaf.min(), leaf.max())}
        read.append(value)
    assert read == sorted(read) and read[0] == 1 and len(read) > 3
    names = {x.name for x in folder.iterdir()}
    listed = {WEIGHTS}
    if after == "shards":
        listed = set(json.loads((folder / INDEX).read_text())["weight_map"].values())
        assert len(listed) > 1
        names.remove(INDEX)
    assert names == listed | {"config.json", "generation_config.json"}
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder)
    assert all((x == 2).all() for x in theirs.parameters())


KILLED = (
    *((pathlib.Path, name) for name in ("replace", "rename", "unlink", "mkdir")),
    *((os, name) for name in ("replace", "rename", "unlink", "link")),
    (shutil, "rmtree"),
)


class Killed(BaseException):
    pass


def killed_at(number, patched):
    """The process does nothing more to the disk once so many changes were made."""
    made = [0]

    def counted(act):
        def instead(*args, **kwargs):
            if made[0] == number:
                raise Killed
            made[0] += 1
            return act(*args, **kwargs)

        return instead

    for owner, name in KILLED:
        patched.setattr(owner, name, counted(getattr(owner, name)))


def tokenizer(words):
    tokenizers = pytest.importorskip("tokenizers")
    vocabulary = {word: i for i, word in enumerate(words)}
    return Tokenizer(tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary)))


@pytest.mark.parametrize("before", FORMS)
@pytest.mark.parametrize("after", FORMS)
def test_a_save_that_is_killed_is_the_old_the_new_or_can_be_finished(
    before, after, tmp_path, monkeypatch
):
    """At every change of the disk, for a model of which all files change."""
    old = dataclasses.replace(CONFIG, depth=1, hidden=32, expert_hidden=32)
    new = dataclasses.replace(old, norm_eps=1e-3)
    words = {1: ("a", "b"), 2: ("c", "d")}
    shapes = structure(old)[1]
    ones = jax.tree.map(lambda x: np.ones(x.shape, "f4"), shapes)
    models = {1: ones, 2: jax.tree.map(lambda x: 2 * x, ones)}

    def save(folder, value, form):
        save_pretrained(
            folder,
            {1: old, 2: new}[value],
            models[value],
            tokenizer=tokenizer(words[value]),
            stop_tokens=[value],
            shard_bytes=FORMS[form],
        )

    def state(folder):
        model = from_pretrained(folder)
        leaves = map(np.asarray, jax.tree.leaves(model.params))
        (value,) = {float(x) for leaf in leaves for x in (leaf.min(), leaf.max())}
        assert model.config == {1: old, 2: new}[value]
        assert set(model.tokenizer.vocabulary) == set(words[value])
        assert model.stop_tokens == (value,)
        return value

    save(tmp_path / "old", 1, before)
    states, finished = [], False
    while not finished:
        folder = tmp_path / f"{len(states)}"
        shutil.copytree(tmp_path / "old", folder)
        with monkeypatch.context() as patched, contextlib.suppress(Killed):
            killed_at(len(states), patched)
            save(folder, 2, after)
            finished = True
        try:
            states.append(state(folder))
        except CheckpointError as error:
            assert "save was stopped" in str(error) and "finish_save" in str(error)
            states.append(1.5)
            again = tmp_path / "again"
            shutil.copytree(folder, again)
            finish_save(again)
            assert state(again) == 2
            shutil.rmtree(again)
        save(folder, 1, before)
        assert state(folder) == 1
        # Shards have other names than those before; nothing is left of them.
        count = len(list((tmp_path / "old").iterdir()))
        assert len(list(folder.iterdir())) == count
    assert states == sorted(states) and set(states) == {1, 1.5, 2}


def test_what_fails_before_it_is_written_leaves_no_trace(tmp_path, params, monkeypatch):
    save_pretrained(tmp_path, CONFIG, params)
    names = {x.name for x in tmp_path.iterdir()}
    with monkeypatch.context() as patched, pytest.raises(Stopped):
        patched.setattr(Tokenizer, "save", stopping(None, [0]))
        save_pretrained(tmp_path, CONFIG, params, tokenizer=tokenizer("ab"))
    assert {x.name for x in tmp_path.iterdir()} == names
    from_pretrained(tmp_path)


def test_what_cannot_be_written_is_said(tmp_path, params):
    (tmp_path / "file").write_text("")
    for how, message in (
        ({"dtype": "int8"}, "dtype is int8; expected one of float64"),
        ({"shard_bytes": 0}, "shard_bytes must be at least 1"),
        ({"folder": tmp_path / "file"}, "folder is .*file', a file"),
    ):
        with pytest.raises(ValueError, match=message):
            save_pretrained(
                **{"folder": tmp_path / "m"} | how, config=CONFIG, params=params
            )
    assert not (tmp_path / "m").exists()
    with pytest.raises(ValueError, match="dtype is 'int8'; expected a floating"):
        from_pretrained(tmp_path, dtype="int8")


def test_pickles_are_never_read(folder):
    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(folder / "trapped"),)

    whole = folder / "whole"
    (whole / WEIGHTS).unlink()
    refuse(whole, f"no {WEIGHTS}")
    (whole / "pytorch_model.bin").write_bytes(pickle.dumps(Trap()))
    refuse(whole, "pytorch_model.bin", "run any code")
    assert not (folder / "trapped").exists()


def test_sources_that_are_not_there(folder, monkeypatch):
    monkeypatch.setenv("KLJAX_CACHE", str(folder / "cache"))
    monkeypatch.setenv("HF_HOME", str(folder / "hub"))
    with pytest.raises(ValueError, match=r"no such folder .* smollm2"):
        from_pretrained(folder / "nowhere")
    with pytest.raises(ValueError, match=r"a file but no .gguf"):
        from_pretrained(folder / "whole" / WEIGHTS)
    with pytest.raises(DataError, match=r"python -m kljax.data fetch smollm2"):
        from_pretrained("smollm2")
    (folder / "x.gguf").write_bytes(b"none of it")
    refuse(folder / "x.gguf", "x.gguf: not a GGUF file")


def test_models_of_the_hugging_face_cache_are_found(folder, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(folder / "home"))
    cached = folder / "home/hub/models--owner--tiny"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs/main").write_text("abc\n")
    (cached / "snapshots").mkdir()
    (folder / "whole").rename(cached / "snapshots/abc")
    assert from_pretrained("owner/tiny").config == CONFIG


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "gemma2"}, "model_type is 'gemma2'; expected one of llama"),
        ({"model_type": None}, "no model_type"),
        ({"hidden_size": None}, "no hidden_size"),
        ({"hidden_act": "tanh"}, "hidden_act is 'tanh'"),
        ({"final_logit_softcapping": 30.0}, "final_logit_softcapping is 30.0"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5"),
        ({"rope_parameters": {"rope_type": "longrope"}}, "rope_type is 'longrope'"),
        ({"rope_parameters": {"rope_type": "yarn"}}, "no factor"),
        ({"num_key_value_heads": 3}, "kv_heads is 3; it must divide heads"),
        ({"num_attention_heads": "four"}, "invalid literal"),
        ({"model_type": "qwen3_moe", "norm_topk_prob": None}, "no norm_topk_prob"),
        ({"model_type": "mixtral", "num_local_experts": None}, "no num_local_experts"),
        ({"model_type": "gpt2", "scale_attn_weights": False}, "scale_attn_weights"),
    ],
)
def test_configurations_that_cannot_be_done(folder, changes, message):
    values = json.loads((folder / "whole/config.json").read_text()) | changes
    with pytest.raises(CheckpointError, match=message) as caught:
        read_config(values, folder / "config.json")
    assert "config.json" in str(caught.value)


def test_safetensors_agree_with_the_package(tmp_path):
    numpy = pytest.importorskip("safetensors.numpy")
    rng = np.random.default_rng(0)
    sizes = {"a": (70_000, 40), "b": (7,), "c": (2, 0)}
    arrays = {x: rng.normal(size=size).astype("f4") for x, size in sizes.items()}
    numpy.save_file(arrays, tmp_path / "theirs")
    stored = open_safetensors(tmp_path / "theirs")
    for name, array in arrays.items():
        np.testing.assert_array_equal(read(stored[name], np.float32), array)
    wide = read(stored["a"], np.float64, transposed=True)
    np.testing.assert_array_equal(wide, arrays["a"].T)
    described = {
        name: (array.shape, lambda array=array: iter([array]))
        for name, array in arrays.items()
    }
    write_safetensors(tmp_path / "ours", described, np.float16)
    for name, array in numpy.load_file(tmp_path / "ours").items():
        np.testing.assert_array_equal(array, arrays[name].astype(np.float16))


def test_loading_holds_little_more_than_what_stays(tmp_path):
    """In a process of its own, whose peak the system keeps."""
    config = TransformerConfig(
        vocab_size=16384, width=512, depth=4, heads=8, hidden=2048, max_length=64
    )
    shapes = structure(config)[1]
    zeros = jax.tree.map(lambda x: np.zeros(x.shape, "f4"), shapes)
    save_pretrained(tmp_path, config, zeros, shard_bytes=40_000_000)
    code = f"""
import pathlib
from kljax.models.files.pretrained import from_pretrained
import jax; jax.numpy.zeros(3)
def now(field):
    status = pathlib.Path("/proc/self/status").read_text()
    return int(status.split(field + ":")[1].split()[0]) / 1e3
before = now("VmRSS")
model = from_pretrained({str(tmp_path)!r})
print(before, now("VmHWM"), now("VmRSS"))
"""
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    before, peak, after = map(float, out.stdout.split())
    weights = 4e-6 * sum(x.size for x in jax.tree.leaves(shapes))
    assert after - before > 0.9 * weights
    assert peak - before <= 1.1 * (after - before)


def test_parameters_are_cut_over_a_mesh_as_they_are_read(folder, params):
    mesh = jax.make_mesh((2, 2), ("fsdp", "tensor"))
    model = from_pretrained(folder / "whole", mesh=mesh)
    up = model.params["layers"][0]["mlp"]["up"]["kernel"]
    assert up.sharding.spec == jax.P("fsdp", "tensor")
    assert up.addressable_shards[0].data.shape == (16, 64)
    for a, b in zip(jax.tree.leaves(model.params), jax.tree.leaves(params)):
        assert a.sharding.mesh == mesh
        np.testing.assert_array_equal(a, b)


def test_types_elsewhere_are_those_of_the_files(folder, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    for stored, kept in (("f4", "float32"), ("f2", "bfloat16")):
        save_pretrained(
            folder / stored,
            CONFIG,
            from_pretrained(folder / "whole").params,
            dtype=stored,
        )
        model = from_pretrained(folder / stored)
        assert {x.dtype.name for x in jax.tree.leaves(model.params)} == {kept}
