"""The command lines that run an offered file within the memory that was counted.

llama-server's defaults take more: four slots, up to 8 GiB of earlier prompts, and of models with sliding windows or
states up to 32 copies of those. So there is one slot, no store of prompts, and as many copies as what is left can hold,
each taken to be as large as the cache, which it cannot exceed.

A file of the Hub is named by its path (`--hf-file`), not by a tag: a tag is searched for in names and may find another.
llama.cpp takes no revision with a repository's name, so a file of a certain revision is given as an address.
"""

from __future__ import annotations

from quantpress.choose.shelf import Offer, Shelf
from quantpress.memory import Footprint

__all__ = ["commands"]

_CHECKPOINTS = 32


def commands(source: Shelf, offer: Offer, taken: Footprint, *, gpu_layers: int, left: int) -> dict[str, list[str]]:
    """The program's name → its command line, by words; `left` are the bytes of memory that nothing else needs.

    llama-server fetches a file itself, for `quantpress serve` `pull` does. That counts a GPU's bytes as memory, so it
    is told the sum where there is one.
    """
    kind, context = taken.cache_type.lower(), str(taken.context)
    llama = ["llama-server", *_model(source, offer), "-c", context, "-ngl", str(gpu_layers)]
    llama += ["--cache-type-k", kind, "--cache-type-v", kind, "--parallel", "1", "--cache-ram", "0"]
    copies = left // max(1, taken.cache)
    llama += ["--ctx-checkpoints", str(copies)] if copies < _CHECKPOINTS else []
    ours = ["--context", context, "--kv", kind, "--gpu-layers", str(gpu_layers), "--parallel", "1"]
    ours += ["--memory", f"{taken.total}B"] if gpu_layers else []
    if source.root is not None:
        return {"llama-server": llama, "quantpress": ["quantpress", "serve", str(source.root / offer.file), *ours]}
    repository = str(source.repository)
    named = f"{repository}@{source.revision}" if source.revision else repository
    folder, _, name = offer.file.rpartition("/")
    include = f"{folder}/*" if offer.parts > 1 and folder else name.replace("-00001-of-", "-*-of-")
    return {
        "llama-server": llama,
        "pull": ["quantpress", "pull", named, "--include", include],
        "quantpress": ["quantpress", "serve", f"{repository.rpartition('/')[2]}/{offer.file}", *ours],
    }


def _model(source: Shelf, offer: Offer) -> list[str]:
    """How llama.cpp is told which file."""
    if source.root is not None:
        return ["-m", str(source.root / offer.file)]
    if source.revision is None:
        return ["-hf", str(source.repository), "--hf-file", offer.file, *(["--no-mmproj"] if source.projector else [])]
    from huggingface_hub import hf_hub_url

    return ["-mu", hf_hub_url(str(source.repository), offer.file, revision=source.revision)]
