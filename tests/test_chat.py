"""Chat templates: the rendering against llama-cpp-python's own, and templates that want more than text."""

from pathlib import Path

import pytest
from llama_cpp.llama_chat_format import Jinja2ChatFormatter

from quantpress import chat
from quantpress.chat import Template, attempts, render
from quantpress.errors import TextError

CONVERSATIONS = [
    [{"role": "user", "content": "What is “x” & <b>?"}, {"role": "assistant", "content": "A letter.\n\n "}],
    [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Yes?"},
        {"role": "user", "content": "Bye"},
    ],
]
TEMPLATES = {
    "chatml": "{% for m in messages %}\n{{ '<|start|>' + m.role + '\n' + m['content'] + '<|end|>' }}\n{% endfor %}\n",
    "blocks": "{{ bos_token }}\n  {% for m in messages %}\n    {% if m.role == 'user' %}\nU: {{ m.content | trim }}\n"
    "    {% else %}\n{{ m.content }}{{ eos_token }}\n    {% endif %}\n  {% endfor %}",
    "loop controls": "{% for m in messages %}{% if loop.index > 1 %}{% break %}{% endif %}{{ m.content }}{% endfor %}",
    "json": "{{ messages | tojson }} {{ messages | tojson(indent=2) }}",
    "generation": "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}",
    "namespace": "{% set n = namespace(k=0) %}{% for m in messages %}{% set n.k = n.k + 1 %}{{ n.k }}{% endfor %}",
}


def template(source: str) -> Template:
    return Template(Path("model.gguf"), source, bos="<s>", eos="</s>")


@pytest.mark.parametrize("name", TEMPLATES)
def test_renders_as_llama_cpp_python_does(name: str) -> None:
    theirs = Jinja2ChatFormatter(TEMPLATES[name], eos_token="</s>", bos_token="<s>", add_generation_prompt=False)  # noqa: S106
    expected = [theirs(messages=messages).prompt for messages in CONVERSATIONS]
    assert render(template(TEMPLATES[name]), CONVERSATIONS) == expected


def test_the_date_is_always_the_same() -> None:
    assert render(template("{{ strftime_now('%d %b %Y') }}"), CONVERSATIONS[:1]) == ["01 Jan 2025"]


HOSTILE = {
    "out of the sandbox": ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "SecurityError"),
    "changes its input": ("{{ messages.append(1) }}", "SecurityError"),
    "includes a file": ("{% include '/etc/hostname' %}", "conversation 1"),
    "no template": ("{% for %}", "TemplateSyntaxError"),
    "refuses": ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
    "unknown helper": ("{{ nothing.there() }}", "UndefinedError"),
    "too long": ("{% for i in range(99999) %}{{ 'a' * 1000 }}{% endfor %}", "more than 1,"),
    "too large": ("{{ 'a' * 10**12 }}", "MemoryError"),
    "too deep": ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "RecursionError"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_templates_become_errors(name: str) -> None:
    source, found = HOSTILE[name]
    with pytest.raises(TextError, match=r"model\.gguf: tokenizer\.chat_template") as error:
        render(template(source), CONVERSATIONS)
    assert found in str(error.value)


def test_an_endless_template_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat, "_SECONDS", 1.0)
    loop = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
    with pytest.raises(TextError, match="expected at most 1 seconds, found no end"):
        render(template(loop), CONVERSATIONS)


TOOLS = [{"type": "function", "function": {"name": "weather_of", "parameters": {"type": "object", "properties": {}}}}]
WITH_TOOLS = (
    "{% if tools %}{{ tools | tojson }}{% endif %}{% for m in messages %}"
    "{% if m.role == 'system' %}{{ raise_exception('no system turn') }}{% endif %}{{ m.content }}{% endfor %}"
)


def test_tools_are_rendered_as_llama_cpp_python_does() -> None:
    theirs = Jinja2ChatFormatter(WITH_TOOLS, eos_token="</s>", bos_token="<s>")  # noqa: S106
    expected = theirs(messages=CONVERSATIONS[0], tools=TOOLS).prompt
    assert attempts(template(WITH_TOOLS), [(CONVERSATIONS[0], TOOLS)], prompt=True) == [expected]


def test_a_refusal_stands_where_the_text_would() -> None:
    plain, refused, last = attempts(template(WITH_TOOLS), [(CONVERSATIONS[n], None) for n in (0, 1, 0)])
    assert plain == last
    assert isinstance(refused, TextError)
    assert str(refused.found) == "conversation 2: TemplateError: no system turn"
    with pytest.raises(TextError, match="TemplateSyntaxError"):
        attempts(template("{% for %}"), [(CONVERSATIONS[0], None)])
