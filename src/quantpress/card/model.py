"""What the page says of the model itself: front matter, size, prompt format; all from the float model's metadata."""

from __future__ import annotations

from typing import Any

from quantpress.card.numbers import short_count
from quantpress.chat import render, template_of
from quantpress.errors import TextError
from quantpress.gguf import GGUF

__all__ = ["about_model", "front_matter", "prompt"]


def about_model(base: GGUF, model: str) -> dict[str, Any]:
    """Name, architecture, parameters, trained context (None where unknown), licence, and the type of most weights."""
    architecture = base.get("general.architecture")
    context = base.get(f"{architecture}.context_length")
    license = base.get("general.license.name") or base.get("general.license")
    return {
        "origin": base.get("general.name") or model,
        "architecture": architecture,
        "weights": short_count(sum(tensor.weights for tensor in base.tensors.values())),
        "trained_context": f"{context:,}" if context else None,
        "base_type": max(base.tensors.values(), key=lambda tensor: tensor.nbytes).type.name,
        "license": license,
        "license_link": base.get("general.license.link"),
    }


def front_matter(base: GGUF, base_model: str | None, mixed: bool) -> str:
    """The YAML that the Hub reads; `mixed`: some files have types by tensor that no stock mix has."""
    import yaml

    architecture = base.get("general.architecture")
    template = base.get("tokenizer.chat_template")
    tags = ["gguf", "llama.cpp", "imatrix", "quantpress", architecture]
    tags += ["conversational"] * bool(template) + ["mixed-precision"] * mixed
    fields = {
        "quantized_by": "quantpress",
        "pipeline_tag": "text-generation",
        "library_name": "gguf",
        "language": _list(base.get("general.languages")),
        "license": base.get("general.license"),
        "license_name": base.get("general.license.name"),
        "license_link": base.get("general.license.link"),
        "base_model": base_model,
        "base_model_relation": "quantized" if base_model else None,
        "tags": list(dict.fromkeys(filter(None, tags))),
    }
    held = {key: value for key, value in fields.items() if value}
    return str(yaml.safe_dump(held, sort_keys=False, allow_unicode=True, width=1000)).strip()


def _list(value: Any) -> list[str] | None:
    return None if value is None else [str(one) for one in value]


def prompt(base: GGUF) -> str | None:
    """The chat template with placeholders, None where there is none or it takes no such conversation."""
    source = base.get("tokenizer.chat_template")
    if not source:
        return None
    system, user = (
        {"role": role, "content": text} for role, text in (("system", "{system_prompt}"), ("user", "{prompt}"))
    )
    template = template_of(base, source)
    for conversation in ([system, user], [user]):  # some templates refuse a system prompt
        try:
            return render(template, [conversation], prompt=True)[0].rstrip()
        except TextError:
            continue
    return None
