"""The model that text is run through: what is checked of it and of the settings before llama.cpp sees them."""

from __future__ import annotations

from pathlib import Path

from quantpress import gguf
from quantpress.errors import InputError
from quantpress.progress import Progress

__all__ = ["check_threads", "note_context", "read_model"]


def read_model(path: str | Path) -> gguf.GGUF:
    """Open a model; raises GGUFError for a malformed file, InputError for a GGUF file that is no model."""
    file = gguf.read(path)
    if isinstance(file.get("general.architecture"), str):
        return file
    file.close()
    kind = file.get("general.type")
    found = f"a GGUF file of type {kind}" if kind is not None else "a GGUF file without one"
    raise InputError(path, "general.architecture", expected="a model's", found=found, hint="Give the model's GGUF file")


def check_threads(threads: int | None) -> None:
    """Raise InputError for a number of threads that is none."""
    if threads is not None and threads < 1:
        raise InputError(None, "threads", expected="at least 1", found=threads)


def note_context(model: gguf.GGUF, context: int, progress: Progress) -> None:
    """Say so where the windows are longer than any that the model was trained on."""
    trained = model.get(f"{model.get('general.architecture')}.context_length")
    if isinstance(trained, int) and context > trained:
        progress.note(f"{model.path.name} was trained on {trained:,} tokens: beyond them it extrapolates")
