"""The page in every language: one Jinja template a section, one table of phrases a language, the same numbers in all.

What the templates are given is the same for every language but for the words (`given.py`, `words.py`), so that no
number can differ. A section that has nothing to say is empty and left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from quantpress.card.given import given_facts
from quantpress.card.markdown import plain, solid
from quantpress.card.model import front_matter
from quantpress.card.phrases import Language, languages
from quantpress.card.words import words
from quantpress.files import write_text
from quantpress.gguf import GGUF

__all__ = ["SECTIONS", "pages", "write_card"]

SECTIONS = tuple(
    "about files choose download hermes prompt speed repacking ends making plans automatic credits licence".split()
)
"""In this order; each is a template of that name."""


def pages() -> list[str]:
    """The file names of the page in all languages, README.md first."""
    return [language.page for language in languages()]


def write_card(
    folder: Path,
    results: Mapping[str, Any],
    facts: Mapping[str, Any],
    base: GGUF,
    *,
    imatrix: str,
    pictures: Mapping[str, str],
    base_model: str | None = None,
) -> list[Path]:
    """Write the page of a release folder in every language; returns the files, README.md first.

    `results` is results.json, `facts` what release.json says beside the files, `base` the float model, `imatrix` the
    file's name, `pictures` are those of pictures.py, `base_model` is the checkpoint's `user/name` on the Hub. What is
    not in them, such as speeds, is left out; plans and report.html are linked if they are in the folder.
    """
    given = given_facts(folder, results, facts, base, imatrix, pictures, base_model)
    head = f"---\n{front_matter(base, base_model, mixed=bool(given['mixed']))}\n---\n\n"
    known, written = languages(), []
    for language in known:
        text = _page(given, language, known)
        written.append(folder / language.page)
        write_text(written[-1], head + text if language is known[0] else text)  # the Hub reads README.md's alone
    return written


def _page(given: Mapping[str, Any], language: Language, known: Sequence[Language]) -> str:
    context = {**given, **words(given, language, known)}
    sections = [_environment().get_template(f"card/{name}.md.j2").render(context).strip() for name in SECTIONS]
    return "\n\n".join(filter(None, sections)) + "\n"


@cache
def _environment() -> Any:
    """Where the templates are; it keeps what it has compiled."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("quantpress"),
        undefined=StrictUndefined,
        autoescape=False,  # noqa: S701  (Markdown)
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"plain": plain, "solid": solid}
    return environment
