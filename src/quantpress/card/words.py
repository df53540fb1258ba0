"""What the templates are given in one language: its phrases, and what is put together from them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from quantpress.card.markdown import address, plain
from quantpress.card.phrases import Language
from quantpress.recipes import MixedPrecision

__all__ = ["words"]

Say = Callable[..., str]


def words(given: Mapping[str, Any], language: Language, known: Sequence[Language]) -> dict[str, Any]:
    """The language's part of the context, to go over `given_facts`; `known`: all languages, for the links."""
    say, repository = language.say, given["repository"]

    def file(path: str) -> str:
        return f"[{plain(path)}]({address(path, repository)})"

    names = [one.name if one is not language else f"**{one.name}**" for one in known]
    links = [
        name if one is language else f"[{name}]({address(one.page, repository)})"
        for one, name in zip(known, names, strict=True)
    ]
    evaluated = given["texts"]["evaluation"]
    return {
        "say": say,
        "file": file,
        "picture": lambda text, path: f"![{plain(text)}]({address(path, None)})",
        "links": " | ".join(links),
        "texts": {purpose: {**text, "words": _digests(text, say, file)} for purpose, text in given["texts"].items()},
        "evaluated_on": say("text.by_model") if evaluated["by_model"] else _names(evaluated, say),
        "describe": lambda row: _description(row, say),
        "unlabelled": say("comma").join(plain(row["file"]) for row in given["unlabelled"]),
        "frontier": say("comma").join(f"{plain(row['variant'])} ({row['size']})" for row in given["frontier"]),
        "machine": _machine(given["machine_facts"], say),
        "features": ", ".join(map(plain, (given["machine_facts"] or {}).get("features", ()))),
    }


def _names(text: Mapping[str, Any], say: Say) -> str:
    return say("comma").join(plain(name) for name, _ in text["files"])


def _digests(text: Mapping[str, Any], say: Say, file: Callable[[str], str]) -> str:
    """The files of a text with their hashes, as links where they are part of the release."""
    published = text["published"] or [None] * len(text["files"])
    return say("comma").join(
        say("making.digest", file=file(copy) if copy else plain(name), sha256=sha256)
        for (name, sha256), copy in zip(text["files"], published, strict=True)
    )


def _machine(machine: Mapping[str, Any] | None, say: Say) -> str:
    if machine is None:
        return ""
    return say(
        "speed.machine", cpu=plain(machine["cpu"]), threads=machine["threads"], backend=plain(machine["backend"])
    )


def _description(row: Mapping[str, Any], say: Say) -> str:
    """What a file is; and, where another is better, which."""
    text = plain(_types(row, say))
    return say("files.beaten", description=text, better=plain(row["better"])) if row["better"] else text


def _types(row: Mapping[str, Any], say: Say) -> str:
    found = row.get("allocation")
    if found is not None:
        return _automatic(found, say)
    name, _, settings = row["variant"].partition(":")
    if name != "MP":
        return say(f"variants.{name}")
    given = asdict(MixedPrecision.parse(dict(pair.split("=") for pair in settings.split(",") if pair)))
    return say("variants.MP", percent=f"{100 * given.pop('fraction'):g}", **given)


def _automatic(found: Mapping[str, Any], say: Say) -> str:
    if found["gate"] is None:
        return say("automatic.by_errors")
    if not found["gate"]["passed"]:
        return say("automatic.gave_up", reference=found["reference"])
    return say("automatic.beat", reference=found["reference"]) if found["reference"] else say("automatic.by_damage")
