"""Chat templates from anywhere: nothing but text comes out, or an error by line."""

import pytest

from kljax.models.files.chat_template import render

pytest.importorskip("jinja2")

MESSAGES = [{"role": "user", "content": "hi"}]
# What reaches for more than the data: nothing of it may be written.
ESCAPES = {
    "a class": "{{ ''.__class__ }}",
    "bases": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "a filter": "{{ ''|attr('__class__') }}",
    "an item": "{{ ''['__class__'] }}",
    "a format": "{{ '{0.__class__}'.format(messages) }}",
    "a format of names": "{{ '{a.__class__}'.format_map({'a': messages}) }}",
    "globals of Jinja": "{{ cycler.__init__.__globals__.os }}",
    "globals of lipsum": "{{ lipsum.__globals__ }}",
    "globals of ours": "{{ raise_exception.__globals__ }}",
    "what ours is closed over": "{{ raise_exception.__closure__ }}",
    "globals of the clock": "{{ strftime_now.__globals__ }}",
    "its own context": "{{ self._TemplateReference__context }}",
    "code": "{{ raise_exception.__code__ }}",
}


def rendered(template, **variables):
    options = {"messages": MESSAGES, "tools": None, "documents": None}
    return render("default", template, **{**options, **variables})


@pytest.mark.parametrize("name", ESCAPES)
def test_nothing_is_reached_but_the_data(name):
    try:
        assert rendered(ESCAPES[name]) == ""
    except ValueError as error:
        assert "SecurityError" in str(error) and "line 1" in str(error)


FAILING = {
    "an undefined name": ("a\n{{ b.c }}", r"line 2 .*'b' is undefined"),
    "an undefined call": ("{{ b() }}", "'b' is undefined"),
    "an undefined item": ("{{ messages[5].content }}", "no element 5"),
    "changes": ("{{ messages.append(1) }}", "SecurityError"),
    "a huge loop": ("{% for i in range(10**9) %}{% endfor %}", "Range too big"),
    "a macro without end": (
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "RecursionError",
    ),
    "a block without end": (
        "{% block a %}{{ self.a() }}{% endblock %}",
        "RecursionError",
    ),
    "brackets without end": (
        "{{ " + "(" * 3000 + "1" + ")" * 3000 + " }}",
        "Recursion",
    ),
    "too many blocks": (
        "{% if 1 %}" * 200 + "{% endif %}" * 200,
        "line not known: IndentationError",
    ),
    "a break outside": ("{% break %}", "line not known: SyntaxError"),
    "a file": ("{% include '/etc/passwd' %}", "no loader"),
    "a module": ("{% import 'os' as os %}", "no loader"),
    "half a statement": ("a\n{% if %}", r"line 2 \(\{% if %\}\)"),
    "zero": ("{{ 1 / 0 }}", "ZeroDivisionError"),
    "a refusal": ("\n{{ raise_exception('no system') }}", "line 2.*: no system. Rem"),
    "a refusal of 3": ("{{ raise_exception(3) }}", "refuses the messages: 3"),
    "a refusal of nothing": ("{{ raise_exception() }}", "refuses the messages: "),
    "a refusal of much": ("{{ raise_exception(1, 2) }}", "TypeError"),
    "functions as JSON": ("{{ raise_exception|tojson }}", "not JSON serializable"),
    "nothing as JSON": ("{{ nothing|tojson }}", "not JSON serializable"),
    "a clock of 3": ("{{ strftime_now(3) }}", "must be str"),
}


@pytest.mark.parametrize("name", FAILING)
def test_what_fails_is_named(name):
    template, message = FAILING[name]
    with pytest.raises(ValueError, match=message) as caught:
        rendered(template)
    said = str(caught.value)
    assert said.startswith("chat template 'default', line") and "Remedy" in said


def test_objects_are_no_data():
    for value in (object(), print, b"bytes", {1, 2}, MESSAGES.__iter__()):
        with pytest.raises(TypeError, match=r"secret is a .*; a chat template sees"):
            rendered("{{ secret }}", secret=value)
