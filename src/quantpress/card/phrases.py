"""The languages of the page: one YAML file each in `templates/phrases`, found by listing that folder.

A file has the same keys as English, with the same placeholders. The language's own name is its key `language`; the
file's name is its code, which README.zh.md gets its name from.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

__all__ = ["ENGLISH", "Language", "languages"]

ENGLISH = "en"


@dataclass(frozen=True)
class Language:
    """A table of phrases by dotted key: `files.title`."""

    code: str
    phrases: Mapping[str, str]

    @property
    def name(self) -> str:
        """What the language calls itself."""
        return self.phrases["language"]

    @property
    def page(self) -> str:
        """The file name of its page; English is the one that the Hub shows."""
        return "README.md" if self.code == ENGLISH else f"README.{self.code}.md"

    def say(self, key: str, **values: Any) -> str:
        """A phrase with its placeholders filled in; KeyError for one that is not there."""
        return self.phrases[key].format(**values)


@cache
def languages() -> tuple[Language, ...]:
    """All of them, English first."""
    import yaml

    folder = files("quantpress") / "templates" / "phrases"
    found = []
    for file in folder.iterdir():
        if file.name.endswith(".yaml"):
            content = yaml.safe_load(file.read_text(encoding="utf-8"))
            found.append(Language(file.name.removesuffix(".yaml"), dict(_flat(content))))
    return tuple(sorted(found, key=lambda language: (language.code != ENGLISH, language.code)))


def _flat(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", str(value)
