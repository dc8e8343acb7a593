"""SmolLM2-135M as it was published, when it was fetched: by hand with `-m slow`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kljax.data import model_file
from kljax.errors import DataError
from kljax.models.files.pretrained import from_pretrained

pytestmark = pytest.mark.slow
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
gguf = pytest.importorskip("gguf")

# Written for this test.
TEXT = """\
The ferry left the harbor at seven, twelve minutes late, because the cook had forgotten
the bread. Nobody minded. Old Marit sat on a coil of rope and counted the gulls that
followed the boat, and when she had reached nineteen she gave up and counted the
islands instead. There were more islands than gulls. Some of them had a house and a
flagpole, some had only a sheep, and one, the smallest, had a piano, which the
schoolteacher had left there in the spring and could not get home again before the
water was calm enough. On quiet evenings you could hear him row out to play it. The
children said that the seals came to listen. The seals, if anyone had asked them, would
have said that they came for the herring, and that the music was better in the years
when the piano had still been in tune.

"Will you be staying long?" Marit asked the girl with the suitcase.

"Only until I have learned to row," said the girl, "and perhaps to play."
"""


@pytest.fixture(scope="module")
def file():
    try:
        return model_file("smollm2")
    except DataError as missing:
        # 93 MB that are fetched by hand: the message names the command.
        pytest.skip(str(missing))


@pytest.fixture(scope="module")
def model(file):
    return from_pretrained("smollm2")


@pytest.fixture(scope="module")
def tokens(model):
    return np.asarray([model.tokenizer.encode(TEXT)])


def nats(logits, tokens):
    """Mean cost of the next token, from logits in float64."""
    logits = np.asarray(logits, np.float64)[0, :-1]
    top = logits.max(-1, keepdims=True)
    log_p = logits - top - np.log(np.exp(logits - top).sum(-1, keepdims=True))
    return -np.take_along_axis(log_p, tokens[0, 1:, None], -1).mean()


def half_split(matrix, heads):
    """Rows of interleaved pairs to the order of the half-split rotation."""
    out = matrix.shape[0]
    order = np.arange(out).reshape(heads, -1, 2)
    return matrix[np.concatenate([order[:, :, 0], order[:, :, 1]], 1).reshape(-1)]


def reference(file):
    """The same weights in transformers, by another way than ours."""
    config = transformers.LlamaConfig(
        vocab_size=49152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        max_position_embeddings=8192,
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": 1e5},
    )
    parts = {"attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj"}
    parts |= {"attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj"}
    parts |= {f"ffn_{x}": f"mlp.{x}_proj" for x in ("gate", "up", "down")}
    parts |= {"attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm"}
    parts |= {"token_embd": "embed_tokens", "output_norm": "norm"}
    weights = {}
    for tensor in gguf.GGUFReader(file).tensors:
        *_, part, _ = tensor.name.split(".")
        value = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        value = value.reshape(tuple(reversed(tensor.shape.tolist())))
        if part in ("attn_q", "attn_k"):
            value = half_split(value, 9 if part == "attn_q" else 3)
        name = tensor.name.replace("blk", "layers").replace(part, parts[part])
        weights[f"model.{name}"] = torch.from_numpy(np.array(value, np.float32))
    model = transformers.LlamaForCausalLM(config).eval()
    found = model.load_state_dict(weights, strict=False)
    assert found.missing_keys == ["lm_head.weight"] and not found.unexpected_keys
    return model


def test_logits_and_cost_are_those_of_transformers(file, model, tokens):
    torch.set_num_threads(1)
    with torch.no_grad():
        want = reference(file)(torch.from_numpy(tokens)).logits.numpy()
    got = np.asarray(jax.jit(model.apply)(model.params, jnp.asarray(tokens)))
    assert np.abs(got - want).max() <= 1e-5 * np.abs(want).max()
    assert abs(nats(got, tokens) - nats(want, tokens)) < 1e-4
    np.testing.assert_array_equal(got.argmax(-1), want.argmax(-1))


def test_rows_of_queries_and_keys_are_in_order(model, tokens):
    """With the rows as they lie in the file the same text costs far more."""
    run = jax.jit(model.apply)
    right = nats(run(model.params, jnp.asarray(tokens)), tokens)
    assert 2.5 < right < 4.0

    def interleaved(kernel):
        rows = kernel.reshape(kernel.shape[0], -1, 2, 32)
        return jnp.swapaxes(rows, -1, -2).reshape(kernel.shape)

    layers = {}
    for i, layer in model.params["layers"].items():
        attention = dict(layer["attention"])
        for part in ("query", "key"):
            attention[part] = {"kernel": interleaved(attention[part]["kernel"])}
        layers[i] = layer | {"attention": attention}
    wrong = nats(run(model.params | {"layers": layers}, jnp.asarray(tokens)), tokens)
    assert wrong > right + 1.0


def test_what_it_is_and_says(model):
    assert model.config.rope.base == 1e5 and model.config.norm_eps == 1e-5
    assert model.stop_tokens == (0, 2) and model.pad_id == 2
    assert model.tokenizer.encode("<|im_start|>user\n12 ")[:2] == [1, 4093]
    assert len(model.tokenizer.encode("2026")) == 4
    assert model.tokenizer.decode(model.tokenizer.encode(TEXT)) == TEXT
    prompt = model.tokenizer.encode("The capital of France is")
    logits = jax.jit(model.apply)(model.params, jnp.asarray([prompt]))
    assert model.tokenizer.decode([logits[0, -1].argmax()]) == " Paris"
    chat = model.tokenizer.chat([{"role": "user", "content": "Hi"}])
    assert chat.endswith("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")
