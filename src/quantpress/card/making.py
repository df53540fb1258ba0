"""How the files were made: the texts, and the commands that make the release again, from release.json's facts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from quantpress.allocation import Target
from quantpress.card.markdown import command

__all__ = ["commands", "text_facts"]

_PREFIXED = ("like", "fit")  # kinds of target whose word is part of `auto:like:Q4_K_M`


def text_facts(facts: Mapping[str, Any], purpose: str) -> dict[str, Any]:
    """Of a text: `by_model`, and a pair of name and SHA-256 a file; `published` are their names in the release."""
    text = facts["texts"][purpose]
    return {
        "by_model": text["by_model"],
        "files": [tuple(pair) for pair in text["sha256"]],
        "published": list(text.get("files", ())),
    }


def commands(facts: Mapping[str, Any], model: str, base_model: str | None, gpu_layers: int = 0) -> str:
    """The shell lines: the versions that were used, and every setting that decides the result."""
    lines = [command("pip", "install", f"quantpress=={facts['quantpress']}")]
    engine = facts["engine"].get("llama_cpp_python")
    if engine:
        lines[0] += f" llama-cpp-python=={engine}"
    source = facts.get("source", {})
    words = [["quantpress", "release"]]
    if "repository" in source:
        words[0] += [f"{source['repository']}@{source['commit']}", "--remote"]
    else:
        words[0] += [source.get("path", model)]
    words[0] += ["--out", f"{model}-GGUF"]
    words += _options(facts, base_model)
    words += [["--gpu-layers", str(gpu_layers)]] if gpu_layers else []
    return "\n".join([*lines, " \\\n    ".join(command(*group) for group in words)])


def _options(facts: Mapping[str, Any], base_model: str | None) -> list[list[str]]:
    settings = facts["settings"]
    targets = {_named(target): _word(target) for target in settings["targets"]}
    variants = ",".join(targets.get(name, name) for name in settings["variants"])
    options = [["--variants", variants]]
    if targets:
        options.append(["--budget", settings["budget"]])
    for purpose in ("calibration", "evaluation"):
        options += _text(facts, purpose, settings[f"{purpose}_tokens"])
    options.append(["--evaluation-chunks", str(settings["evaluation_chunks"]), "--context", str(settings["context"])])
    options[-1] += ["--chat"] * settings["chat"]
    options.append(["--encoder", settings["encoder"], "--effort", settings["effort"], "--seed", str(settings["seed"])])
    options[-1] += ["--allow-plain"] * settings.get("allow_plain", False)
    options.append(["--split-gb", f"{settings['split_bytes'] / 1e9:g}"])
    if settings["repository"]:
        options.append(["--repository", settings["repository"]])
    if base_model and "repository" not in facts.get("source", {}):
        options.append(["--base-model", base_model])
    return options


def _text(facts: Mapping[str, Any], purpose: str, tokens: int) -> list[list[str]]:
    text = text_facts(facts, purpose)
    if text["by_model"]:
        return [[f"--{purpose}-tokens", str(tokens)]]
    names: Sequence[str] = text["published"] or [name for name, _ in text["files"]]
    return [[f"--{purpose}", name] for name in names]


def _named(target: Mapping[str, Any]) -> str:
    return Target(target["kind"], target["text"]).name


def _word(target: Mapping[str, Any]) -> str:
    kind = f"{target['kind']}:" if target["kind"] in _PREFIXED else ""
    return f"auto:{kind}{target['text']}"
