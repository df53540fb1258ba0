"""Every language says the same: the same phrases with the same placeholders, the same numbers, links and commands."""

from __future__ import annotations

import re
import string
from pathlib import Path
from typing import Any

import pytest
import yaml

from quantpress.card import languages, pages
from quantpress.card import phrases as module
from quantpress.card.page import SECTIONS
from quantpress.recipes import RECIPES, MixedPrecision
from tests.release.cards import body, code, links, measured, page, rendered, results, tables, without_code
from tests.release.test_card_making import gate

PACKAGE = Path(module.__file__).parents[1]
ENGLISH, *OTHERS = languages()


def placeholders(phrase: str) -> list[str]:
    return sorted(name for _, name, _, _ in string.Formatter().parse(phrase) if name is not None)


def test_english_comes_first_and_is_the_hubs_page() -> None:
    assert pages() == ["README.md", "README.zh.md"]
    assert ENGLISH.name == "English"
    assert {language.code for language in languages()} == {
        path.stem for path in (PACKAGE / "templates/phrases").iterdir()
    }


@pytest.mark.parametrize("language", OTHERS, ids=lambda language: language.code)
def test_a_language_has_the_phrases_and_placeholders_of_english(language: module.Language) -> None:
    assert list(language.phrases) == list(ENGLISH.phrases)
    for key, phrase in ENGLISH.phrases.items():
        assert placeholders(language.phrases[key]) == placeholders(phrase), key
        assert re.findall(r"\]\((.*?)\)", language.phrases[key]) == re.findall(r"\]\((.*?)\)", phrase), key
        assert sorted(re.findall(r"`.*?`", language.phrases[key])) == sorted(re.findall(r"`.*?`", phrase)), key


def test_every_phrase_is_used_and_every_recipe_described() -> None:
    code = "".join(path.read_text() for path in [*PACKAGE.glob("card/*.py"), *PACKAGE.glob("templates/card/*.j2")])
    templates = {path.name.split(".")[0] for path in PACKAGE.glob("templates/card/*.j2")}
    assert templates == set(SECTIONS)
    made = {f"making.{purpose}_{how}" for purpose in ("calibration", "evaluation") for how in ("by_model", "given")}
    for key in ENGLISH.phrases.keys() - {"language"} - made:
        assert key.startswith("variants.") or f'"{key}"' in code, key
    described = {key.removeprefix("variants.") for key in ENGLISH.phrases if key.startswith("variants.")}
    assert described == set(RECIPES)
    for name in RECIPES.keys() - {"MP"}:
        assert ENGLISH.say(f"variants.{name}") == RECIPES[name].description, name
    given = {"percent": "15", "rest": "IQ3_S", "top": "IQ4_NL", "attention": "IQ4_NL", "output": "Q5_K"}
    assert ENGLISH.say("variants.MP", **given) == MixedPrecision().recipe.description


def full(folder: Path, base: Path | None = None) -> str:
    """The page of a release that has everything."""
    values = measured()
    values["variants"] |= results(
        Q4_K_L={"bytes": 5 * 10**9},
        MP={"types": [{"type": "Q6_K", "bits_per_weight": 6.5625, "weights": 9, "tensors": {"attn_q": 2}}]},
        AUTO__4bpw={"allocation": {"reference": "IQ4_XS", "reference_bytes": 9, "gate": gate(0.7)}},
        Q6_K={"file": "m-Q6_K/m-Q6_K-00001-of-00002.gguf", "split": True},
    )["variants"]
    pictures = {"frontier": "plots/frontier.svg", "speed": "plots/speed.svg", "MP": "plots/m-MP.svg"}
    (folder / "report.html").touch()
    return page(folder, values, base, repository="me/m-GGUF", base_model="them/m", pictures=pictures)


def test_numbers_links_and_commands_are_the_same_in_all(tmp_path: Path, bf16_gguf: Path) -> None:
    english = body(full(tmp_path, bf16_gguf))
    for name in pages()[1:]:
        other = (tmp_path / name).read_text(encoding="utf-8")
        assert not other.startswith("---")
        assert code(other) == code(english)
        assert links(other)[1:] == links(english)[1:]  # the first leads to the other language
        assert [len(table) for table in tables(other)] == [len(table) for table in tables(english)]
        for ours, theirs in zip(tables(english), tables(other), strict=True):
            for line, translated in zip(ours[1:], theirs[1:], strict=True):
                for cell, one in zip(line, translated, strict=True):
                    assert numbers(cell) == numbers(one), (cell, one)


def numbers(text: str) -> list[str]:
    return sorted(re.findall(r"\d+(?:[.,]\d+)*", text))


@pytest.mark.parametrize("name", pages())
def test_the_markdown_is_sound(tmp_path: Path, bf16_gguf: Path, name: str) -> None:
    full(tmp_path, bf16_gguf)
    text = body((tmp_path / name).read_text(encoding="utf-8"))
    prose = without_code(text)
    assert text.endswith("\n")
    assert "`" * 3 not in prose  # every fence is closed
    assert prose.count("<details") == prose.count("</details>")
    assert len(tables(text)) == 8
    headings = re.findall(r"^#+ .*$", prose, flags=re.MULTILINE)
    assert len(set(headings)) == len(headings)
    assert [len(heading.split(" ")[0]) for heading in headings] == [1] + [2] * (len(headings) - 1)
    for line in prose.splitlines():
        assert not re.search(r"\{[a-z_]+\}|\bNone\b|\{%|\{\{", line), line
        assert line == line.rstrip(), line
    for before, heading in zip(["", *prose.splitlines()], prose.splitlines(), strict=False):
        assert not heading.startswith(("#", "|--")) or heading.startswith("|") or not before, heading
    assert "\n\n\n" not in prose
    html = rendered(text)
    assert html.count("<table>") == len(tables(text))
    assert html.count("<td") == sum(len(line) for table in tables(text) for line in table[1:])
    assert html.count("<pre>") == len(code(text))
    assert sorted(re.findall(r'(?:href|src)="(.*?)"', html)) == sorted(links(text))
    assert not re.search(r"\*\*|\]\(|&lt;/?(details|summary)", re.sub(r"<pre>.*?</pre>", "", html, flags=re.DOTALL))


def test_a_further_language_is_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "templates" / "phrases"
    folder.mkdir(parents=True)
    for path in (PACKAGE / "templates/phrases").iterdir():
        (folder / path.name).write_text(path.read_text())
    content: dict[str, Any] = yaml.safe_load((folder / "en.yaml").read_text())
    (folder / "de.yaml").write_text(yaml.safe_dump({**content, "language": "Deutsch"}, sort_keys=False))
    monkeypatch.setattr(module, "files", lambda package: tmp_path)
    found = languages.__wrapped__()  # not those that were read before
    assert [language.page for language in found] == ["README.md", "README.de.md", "README.zh.md"]
    assert found[1].name == "Deutsch"
    with pytest.raises(KeyError):
        ENGLISH.say("files.missing")
