"""The command `generate`: streams, weighs, draws; says what does not fit."""

import dataclasses
import io
import pathlib
import shutil

import jax
import numpy as np
import pytest
from transformer_reference import draw

from kljax.decoding import command
from kljax.decoding.command import main
from kljax.decoding.shown import Speller, shade
from kljax.models.files.pretrained import save_pretrained
from kljax.models.files.tokenizer import Tokenizer
from kljax.models.language.transformer import TransformerConfig, transformer

tokenizers = pytest.importorskip("tokenizers")
WORDS = ("no", "way", "to", "be", "sure", "of", "it", "all", "now", "then", "here")
CONFIG = TransformerConfig(12, width=8, depth=1, heads=2, hidden=8, max_length=64)


def tokenizer(words):
    vocabulary = {word: i for i, word in enumerate(["<unk>", *words])}
    core = tokenizers.Tokenizer(
        tokenizers.models.WordLevel(vocabulary, unk_token="<unk>")
    )
    core.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    return Tokenizer(core)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Large, base, expert, another expert, and one with other words."""
    root = tmp_path_factory.mktemp("models")
    initial = transformer(CONFIG)[1]
    kinds = {"large": 0, "base": 1, "expert": 2, "other": 3, "foreign": 4}
    for name, seed in kinds.items():
        words = WORDS[::-1] if name == "foreign" else WORDS
        save_pretrained(
            root / name, CONFIG, draw(initial, seed), tokenizer=tokenizer(words)
        )
    return {name: str(root / name) for name in kinds}


def run(folders, capsys, *words, prompt="to be", new="6"):
    arguments = ["generate", "--prompt", prompt, "--max-new-tokens", new]
    for word in words:
        arguments.append(folders.get(word, word))
    status = main(arguments)
    return status, *capsys.readouterr()


def test_one_model_and_several(folders, capsys, tmp_path):
    status, out, err = run(folders, capsys, "--large", "large")
    assert status == 0 and out.startswith("to be") and len(out.split()) == 8
    assert "6 tokens in" in err and "weight" not in err
    picture = tmp_path / "new" / "weights.png"
    words = ["--large", "large", "--base", "base", "--expert", "expert"]
    status, out, err = run(folders, capsys, *words, "--plot", str(picture))
    assert status == 0 and len(out.split()) == 8
    assert "weight" in err and picture.stat().st_size > 5000


@pytest.mark.slow
def test_drafted_text_is_the_same(folders, capsys):
    words = ["--large", "large", "--base", "base", "--expert", "expert"]
    _, plain, _ = run(folders, capsys, *words)
    status, drafted, err = run(folders, capsys, *words, "--draft", "2")
    assert status == 0 and drafted == plain and "calls of the large model" in err


def test_the_base_alone_is_contrastive_decoding():
    from kljax.decoding.fusion import PRESETS

    class Model:
        config = CONFIG

    words = ["generate", "--large", "a", "--base", "b", "--max-weight", "2"]
    assert (
        command._fusion(command.parsed(words), [Model, Model]) == PRESETS["contrastive"]
    )
    words += ["--weight", "0.3"]
    assert command._fusion(command.parsed(words), [Model, Model]).weight == 0.3
    words += ["--expert", "c", "--rule", "kl_ball"]
    assert command._fusion(command.parsed(words), [Model] * 3).rule == "kl_ball"


def test_what_does_not_fit_is_said(folders, capsys):
    large = ("--large", "large")
    status, _, err = run(folders, capsys, *large, "--expert", "expert")
    assert status == 2 and "--expert needs --base" in err
    both = (*large, "--base", "base", "--expert")
    status, _, err = run(folders, capsys, *both, "foreign")
    assert status == 1 and "foreign has another tokenizer than" in err
    assert "'all' (id 4 there, 8 here)" in err
    status, _, err = run(folders, capsys, *large, prompt="to " * 60)
    assert status == 1 and "prompt has 60 tokens and max_new_tokens is 6" in err
    status, _, err = run(folders, capsys, "--large", "/nowhere")
    assert status == 1 and "no such folder" in err
    status, _, err = run(folders, capsys, *large, "--top-p", "2")
    assert status == 1 and "top_p: expected in (0, 1], got 2.0" in err
    status, _, err = run(folders, capsys, *large, prompt="")
    assert status == 1 and "the prompt is empty" in err
    status, _, err = run(folders, capsys, *large, "--plot", "x.png")
    assert status == 2 and "--plot draws weights" in err
    status, _, err = run(folders, capsys, *large, "--draft", "3")
    assert status == 2 and "--draft needs --expert" in err
    status, _, err = run(folders, capsys, *large, "--weight", "2")
    assert status == 2 and "--rule and --weight are of fusion" in err
    status, _, err = run(folders, capsys, *both, "expert", "--weight", "nan")
    assert status == 2 and "--weight must be finite, got nan" in err
    status, _, err = run(folders, capsys, *large, "--seed", "9" * 20)
    assert status == 2 and "--seed must fit 64 bits" in err
    status, _, err = run(folders, capsys, "--large", "smolm2")
    assert status == 1 and "did you mean 'smollm2'?" in err
    status, _, err = run(folders, capsys, "--large", "")
    assert status == 1 and "source is empty" in err
    two = (*both, "expert", "--expert", "other", "--rule", "dynamic")
    status, _, err = run(folders, capsys, *two)
    assert status == 1 and 'Use rule="axis"' in err
    status, _, err = run(folders, capsys, *both, "expert", "--rule", "magic")
    assert status == 2 and "invalid choice: 'magic'" in err


def test_characters_spread_over_tokens_come_whole():
    class Bytes:
        end = 256

        def decode(self, ids):
            return bytes(ids).decode("utf-8", errors="replace")

    decoder = Speller(Bytes())
    ids = list("a€b".encode())
    pieces = list(decoder.pieces(ids, [(float(i),) for i in range(len(ids))]))
    assert [piece.text for piece in pieces] == ["a", "€", "b"]
    assert [piece.alpha[0] for piece in pieces] == [0, 3, 4]


def test_text_that_ends_inside_a_character_is_shown():
    class Bytes:
        end = 256

        def decode(self, ids):
            return bytes(ids).decode("utf-8", errors="replace")

    decoder = Speller(Bytes(), list(b"x"))
    ids = list("a€b日".encode())[:-1]
    pieces = [*decoder.pieces(ids, [(float(i),) for i in range(len(ids))])]
    assert [piece.text for piece in pieces] == ["a", "€", "b"]
    rest = list(decoder.rest())
    assert [piece.text for piece in rest] == ["\ufffd"] and rest[0].alpha == (6.0,)
    assert list(decoder.rest()) == [] == list(Speller(Bytes(), list(b"x")).rest())


def test_tokens_that_are_none(folders, capsys):
    """A row of NaN, and rows of a model that its tokenizer has no token for."""
    initial = transformer(CONFIG)[1]
    broken = jax.tree.map(lambda x: x * np.nan, draw(initial, 0))
    folder = pathlib.Path(folders["large"]).with_name("broken")
    save_pretrained(folder, CONFIG, broken, tokenizer=tokenizer(WORDS))
    status, _, err = run(folders, capsys, "--large", str(folder))
    assert status == 1 and f"the logits of {folder} are NaN" in err
    padded = dataclasses.replace(CONFIG, vocab_size=64)
    params = draw(transformer(padded)[1], 0)
    params["head"]["kernel"] = np.arange(64) // 12 * np.ones((8, 1), "f4")
    folder = folder.with_name("padded")
    save_pretrained(folder, padded, params, tokenizer=tokenizer(WORDS))
    status, out, err = run(folders, capsys, "--large", str(folder))
    assert status == 0 and "6 tokens in" in err and out.strip() == "to be"


def test_the_prompt_begins_as_the_model_begins_texts(folders, capsys, monkeypatch):
    found = tokenizer([*WORDS[:-2], "<s>", "</s>"])
    found.core.post_processor = tokenizers.processors.TemplateProcessing(
        "<s> $A", None, [("<s>", 10)]
    )
    template = "<s> {{ messages[0].content }} now"
    found = dataclasses.replace(found, bos_id=10, chat_template=template)
    folder = pathlib.Path(folders["large"]).with_name("begins")
    save_pretrained(folder, CONFIG, draw(transformer(CONFIG)[1], 0), tokenizer=found)
    prompts = []

    def made(options, models, ids, sampling):
        prompts.append(ids)
        return iter(())

    monkeypatch.setattr(command, "_streamed", made)
    for words in ([], ["--chat"]):
        assert run(folders, capsys, "--large", str(folder), *words)[0] == 0
    assert prompts == [[10, 3, 4], [10, 3, 4, 9]]


def test_doors_of_the_command(folders, capsys, tmp_path, monkeypatch):
    large = ("--large", "large")
    status, _, err = run(folders, capsys, *large, prompt=" ")
    assert status == 1 and "the prompt has no tokens" in err
    status, _, err = run(folders, capsys, *large, prompt="to \udcff")
    assert status == 1 and "half of a surrogate pair" in err
    status, _, err = run(folders, capsys, *large, "--chat")
    assert status == 1 and "no chat template" in err
    bare = tmp_path / "bare"
    shutil.copytree(folders["large"], bare)
    (bare / "tokenizer.json").rename(bare / "tokenizer.model")
    status, _, err = run(folders, capsys, "--large", str(bare))
    assert status == 1 and "no tokenizer.json, but tokenizer.model" in err
    text = tmp_path / "notes.txt"
    text.write_text("hm")
    status, _, err = run(folders, capsys, "--large", str(text))
    assert status == 1 and "a file but no .gguf" in err
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"to \xff"), "utf-8"))
    status = main(["generate", *("--large", folders["large"])])
    assert status == 1 and "not UTF-8 at byte 3" in capsys.readouterr().err


def test_tokens_of_many_weights_have_different_shades():
    shades = [shade((x,), 2.0) for x in np.linspace(0, 2.5, 11)]
    assert len(set(shades)) == 6 and shade((), 2.0) is None
