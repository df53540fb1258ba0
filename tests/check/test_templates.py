"""What the chat template takes, and that it is the checkpoint's."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from quantpress.check import Finding, check
from quantpress.errors import CheckpointError
from quantpress.gguf import Value
from tests.check.small import Q4_K_M, Q8_0, TEMPLATE, edit, of_the_sound_one, record, rewrite


def test_it_is_the_checkpoint_s(made: Path) -> None:
    assert check(made, fast=True, checkpoint=made.parent / "tiny") == of_the_sound_one(made)


def test_the_same_in_other_words(folder: Path, made: Path, one: Callable[..., Finding], tmp_path: Path) -> None:
    """Only the checkpoint's files differ from those that are recorded; what its template says does not."""
    checkpoint = shutil.copytree(made.parent / "tiny", tmp_path / "tiny")
    edit(checkpoint / "tokenizer_config.json", lambda v: v.update(chat_template="{# # #}" + v["chat_template"]))
    found = one(checkpoint=checkpoint)
    assert found.severity == "warning"
    assert "made from another checkpoint" in found.what


def test_another_one(folder: Path, made: Path, tmp_path: Path) -> None:
    checkpoint = shutil.copytree(made.parent / "tiny", tmp_path / "tiny")
    template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    edit(checkpoint / "tokenizer_config.json", lambda value: value.update(chat_template=template))
    found = [one for one in check(folder, fast=True, checkpoint=checkpoint) if one.severity == "error"]
    assert len(found) == 1
    assert "another text of a question, several turns, a system turn" in found[0].what


def test_no_checkpoint(folder: Path) -> None:
    with pytest.raises(CheckpointError):
        check(folder, fast=True, checkpoint=folder)


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (None, [("note", "no chat template")]),
        ("{% for %}", [("error", "TemplateSyntaxError")]),
        ("nothing", [("error", "leaves out a question")]),
        (
            "{{ messages[0].content }}",
            [("warning", "leaves out several turns"), ("note", "leaves out tools")],
        ),
        (
            "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
            "{% for m in messages %}{{ m.content }}{% endfor %}{{ tools }}",
            [("note", "refuses a system turn: TemplateError: no system role")],
        ),
    ],
)
def test_what_it_can(folder: Path, template: str | None, expected: list[tuple[str, str]]) -> None:
    shutil.rmtree(folder / "tiny-BF16")
    for name in (Q8_0, Q4_K_M):
        rewrite(
            folder / name,
            lambda keys: keys.pop(TEMPLATE) if template is None else keys.update({TEMPLATE: Value.string(template)}),
        )
    record(folder, Q8_0, Q4_K_M)
    found = [finding for finding in check(folder, fast=True) if "template" in finding.what]
    assert [finding.severity for finding in found] == [severity for severity, _ in expected], found
    assert all(words in finding.what for finding, (_, words) in zip(found, expected, strict=True)), found
