"""Chat templates, as `transformers` renders them, and what is said when one fails."""

import json
import re

import numpy as np
import pytest

from kljax.models.files.tokenizer import load_tokenizer

tokenizers = pytest.importorskip("tokenizers")
pytest.importorskip("jinja2")

CHATML = """\
{%- if tools %}
    {{- '<|im_start|>system\\n# Tools\\n' }}
    {%- for tool in tools %}
        {{- tool | tojson }}
    {%- endfor %}
    {{- '<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if message.role == "assistant" and message.tool_calls %}
        {{- '<|im_start|>assistant' }}
        {%- if message.content %}{{ '\\n' + message.content }}{% endif %}
        {%- for call in message.tool_calls %}
            {{- '\\n' }}{{ call.function.arguments | tojson(indent=2) }}
        {%- endfor %}
        {{- '<|im_end|>\\n' }}
    {%- else %}
        {{- '<|im_start|>' + message['role'] + '\\n' + message.content + '<|im_end|>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""
# Each shows something that a template of a published model does.
TEMPLATES = {
    "chatml with tools": CHATML,
    "llama 3": (
        "{{ bos_token }}{% if tools is none %}none{% else %}{{ tools|length }}"
        "{% endif %}{% if date_string is not defined %}{% set date_string = "
        "strftime_now('%Y') %}{% endif %}{{ date_string }}\n"
        "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] | trim }}"
        "{{ '<|eot_id|>' }}{% endfor %}"
    ),
    "json": (
        "{{ messages | tojson }}{{ documents | tojson(separators=(',', ':')) }}"
        "{{ tools | tojson(sort_keys=true, ensure_ascii=true) }}"
    ),
    "generation": (
        "{% for m in messages %}\n  {% if m.role == 'assistant' %}\n"
        "    {%- generation %}\n{{ m.content }}{{ eos_token }}\n{% endgeneration %}\n"
        "  {% else %}\n{{ m.content }}\n  {% endif %}\n{% endfor %}"
    ),
    "absent keys": (
        "{% for m in messages %}{{ 'content' in m }}{{ m.content is defined }}"
        "{{ m.thinking }}|{{ m.reasoning_content }}{% endfor %}"
        "{{ documents is none }}{{ pad_token is defined }}{{ unk_token }}{{ name }}"
    ),
    "loops": (
        "{% set ns = namespace(n=0, seen=[]) %}{% for m in messages %}"
        "{% if m.role == 'system' %}{% continue %}{% endif %}{% set ns.n = ns.n + 1 %}"
        "{% if loop.last %}{{ ns.n }}{% break %}{% endif %}{{ loop.index0 }}"
        "{% endfor %}{{ dict(a=ns.n) | tojson }}"
        "{% macro say(x) %}[{{ x }}{{ strftime_now('') }}]{% endmacro %}{{ say(1) }}"
    ),
    "documents": (
        "{% for d in documents or [] %}{{ d.title }}: {{ d['text'] }}\n{% endfor %}"
        "{{ messages[-1].content[0].text if messages[-1].content is not string }}"
    ),
}
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "look",
            "description": "Is 1 < 2 & 'ça' > \"b\"?",
            "parameters": {"z": 1, "a": [None, True, 1.5], "type": "object"},
        },
    }
]
CALLS = [{"function": {"name": "look", "arguments": {"z": "é<", "a": 1}}}]
SYSTEM = {"role": "system", "content": " Be brief. "}
USER = {"role": "user", "content": "Is <b> & 'c' ok? ñ 日本"}
CHATS = (
    [SYSTEM, USER],
    [USER, {"role": "assistant", "content": None, "tool_calls": CALLS}],
    [USER, {"role": "assistant", "content": "Yes.", "reasoning": "hm"}, USER],
    [{"role": "user", "content": [{"type": "text", "text": "one"}]}],
)
MORE = (
    {},
    {"tools": TOOLS},
    {"tools": [], "documents": [{"title": "A", "text": "b"}]},
    {"name": (np.int64(3), np.True_, "me"), "date_string": "1 May", "tools": TOOLS},
)


def write(folder, template, **files):
    words = {word: i for i, word in enumerate(["<unk>", "<s>", "</s>"])}
    core = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="<unk>"))
    core.save(str(folder / "tokenizer.json"))
    fields = {"tokenizer_class": "PreTrainedTokenizerFast", "chat_template": template}
    fields |= {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(fields), "utf-8")
    for name, content in files.items():
        file = folder / name.replace("__", "/")
        file.parent.mkdir(exist_ok=True)
        file.with_suffix(".jinja").write_text(content, "utf-8")
    return folder


def rendered(call, *arguments, **options):
    """The text, or that it was refused."""
    try:
        return call(*arguments, **options)
    except Exception as error:
        if "jinja2" in type(error).__module__ or isinstance(error, TypeError):
            return "refused"
        assert isinstance(error, ValueError), error
        return "refused"


@pytest.mark.parametrize("name", TEMPLATES)
def test_text_is_that_of_transformers(name, tmp_path):
    transformers = pytest.importorskip("transformers")
    folder = write(tmp_path, TEMPLATES[name])
    theirs = transformers.AutoTokenizer.from_pretrained(str(folder))
    ours = load_tokenizer(folder)
    texts = set()
    for messages in CHATS:
        for more in MORE:
            for answer in (True, False):
                want = rendered(
                    theirs.apply_chat_template,
                    messages,
                    tokenize=False,
                    add_generation_prompt=answer,
                    **more,
                )
                assert rendered(ours.chat, messages, answer=answer, **more) == want
                texts.add(want)
    assert len(texts - {"refused"}) > 1


def test_several_templates_by_name(tmp_path):
    transformers = pytest.importorskip("transformers")
    both = [
        {"name": "default", "template": "plain {{ messages[0].content }}"},
        {"name": "tool_use", "template": "tools {{ tools | tojson }}"},
        {"name": "rag", "template": "rag"},
    ]
    folder = write(tmp_path, both)
    theirs = transformers.AutoTokenizer.from_pretrained(str(folder))
    ours = load_tokenizer(folder)
    for more in ({}, {"tools": TOOLS}, {"tools": []}):
        want = theirs.apply_chat_template([USER], tokenize=False, **more)
        assert ours.chat([USER], answer=False, **more) == want
    assert ours.chat([USER], template="rag") == "rag"
    with pytest.raises(ValueError, match="no chat template 'x'; give one of default, "):
        ours.chat([USER], template="x")
    ours.save(tmp_path / "saved")
    assert load_tokenizer(tmp_path / "saved").chat_template == ours.chat_template


def test_files_come_before_the_configuration(tmp_path):
    transformers = pytest.importorskip("transformers")
    folder = write(
        tmp_path,
        "config",
        chat_template="file",
        additional_chat_templates__tool_use="tools",
    )
    theirs = transformers.AutoTokenizer.from_pretrained(str(folder))
    for more, want in (({}, "file"), ({"tools": TOOLS}, "tools")):
        assert theirs.apply_chat_template([USER], tokenize=False, **more) == want
        assert load_tokenizer(folder).chat([USER], **more) == want
    (folder / "additional_chat_templates" / "tool_use.jinja").unlink()
    assert load_tokenizer(folder).chat([USER], tools=TOOLS) == "file"
    (folder / "chat_template.jinja").unlink()
    assert load_tokenizer(folder).chat([USER]) == "config"


ESCAPE = "{{ ().__class__.__base__.__subclasses__() }}"
# Name: template, messages and other arguments, what is said.
FAULTS = {
    "no Jinja": ("a\n\n{% if %}", {}, r"line 3 \(\{% if %\}\): TemplateSyntaxError"),
    "a tag of nobody": ("{% call_me %}", {}, "line 1 .*unknown tag"),
    "text and nothing": ("\n{{ 'a' + x }}", {}, r"line 2 \(\{\{ 'a' \+ x \}\}\): "),
    "a key of nothing": ("{{ x.y.z }}", {}, "line 1 .*'x' is undefined"),
    "division": ("\n\n\n{{ 1 // 0 }}", {}, "line 4 .*ZeroDivisionError"),
    "no such filter": ("\n{{ 'a' | shout }}", {}, "line 2 .*No filter named"),
    "endless": ("{% for i in range(10**9) %}{% endfor %}", {}, "line 1 .*Range too"),
    "recursion": (
        "{% macro f() %}\n{{ f() }}{% endmacro %}{{ f() }}",
        {},
        "line 2 .*RecursionError",
    ),
    "an escape": (ESCAPE, {}, "line 1 .*SecurityError"),
    "writing": ("{{ messages.append(1) }}", {}, "line 1 .*SecurityError"),
    "it refuses": (
        "{% for m in messages %}\n{{ raise_exception('no ' + m.role) }}{% endfor %}",
        {},
        "line 2 .* refuses the messages: no user. Remedy: give the roles",
    ),
    "not JSON": ("{{ raise_exception | tojson }}", {}, "line 1 .*not JSON serial"),
    "no message": ("a", {"messages": []}, "messages is empty"),
    "text for messages": ("a", {"messages": "Hi"}, "messages is a str; expected a l"),
    "one message": ("a", {"messages": USER}, "messages is a dict; expected a list"),
    "a text among them": ("a", {"messages": [USER, "Hi"]}, r"messages\[1\] is a str"),
    "an object in one": (
        "a",
        {"messages": [{"role": "user", "content": object()}]},
        r"messages\[0\]\['content'\] is a object",
    ),
    "a function as tool": ("a", {"tools": [print]}, r"tools\[0\] is a builtin.*schema"),
    "documents of text": ("a", {"documents": ["a"]}, r"documents\[0\] is a str"),
    "an unknown name": ("a", {"template": "rag"}, "no chat template 'rag'"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_what_is_wrong_is_said_with_the_line(name, tmp_path):
    template, options, message = FAULTS[name]
    found = load_tokenizer(write(tmp_path, template))
    with pytest.raises((ValueError, TypeError), match=message) as caught:
        found.chat(**{"messages": [USER], **options})
    assert type(caught.value) in (ValueError, TypeError)
    if "line" in message:
        assert re.match(r"chat template 'default', line \d+ ", str(caught.value))
