"""Names of files, as the field's tools expect and read them: `Model-Q4_K_M.gguf`, `Model-imatrix.gguf`.

Who reads a name: Hugging Face, for a label (its pages and Ollama's `hf.co/user/repo:LABEL` go by it); and `llama-server
-hf user/repo:TAG`, for the tag before a `.` or a `-` (`find_best_model` of llama.cpp's common/download.cpp at commit
0c1e57098).
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable
from pathlib import Path

__all__ = [
    "default_file",
    "first_part",
    "folder_name",
    "found_by_tag",
    "hidden",
    "hub_label",
    "model_name",
    "part_files",
    "stem",
    "tag",
    "variant_file",
]

_PART = re.compile(r"-\d{5}-of-\d{5}$")
_ODD = re.compile(r"[^\w.+-]+")
_FLOAT = re.compile(r"[-_.](BF16|F16|F32)$", re.IGNORECASE)

# The file types that Hugging Face looks for in the upper-cased name, in its order (`@huggingface/gguf` 0.4); the last
# match counts, and a size of its own may follow.
_LABELS = (
    "F32 F16 Q4_0 Q4_1 Q4_1_SOME_F16 Q4_2 Q4_3 Q8_0 Q5_0 Q5_1 Q2_K Q3_K_S Q3_K_M Q3_K_L Q4_K_S Q4_K_M Q5_K_S Q5_K_M "
    "Q6_K IQ2_XXS IQ2_XS Q2_K_S IQ3_XS IQ3_XXS IQ1_S IQ4_NL IQ3_S IQ3_M IQ2_S IQ2_M IQ4_XS IQ1_M BF16 Q4_0_4_4 "
    "Q4_0_4_8 Q4_0_8_8 TQ1_0 TQ2_0 MXFP4_MOE NVFP4 Q1_0 Q2_0 Q2_K_XL Q3_K_XL Q4_K_XL Q5_K_XL Q6_K_XL Q8_K_XL MXFP4"
).split()
_LABEL = re.compile(rf"(UD-)?({'|'.join(_LABELS)})(_[A-Z]+)?")

_HIDDEN = ("mmproj", "imatrix", "mtp-", "eagle3-", "dflash-", "dspark-")  # llama.cpp: no models, but what goes with one
_DEFAULTS = ("Q4_K_M", "Q8_0")


def folder_name(folder: Path) -> str:
    """What people call a folder; in the Hub's cache, where that would be a commit's hash, the repository's name."""
    repository = folder.parent.parent.name
    if folder.parent.name == "snapshots" and repository.startswith("models--"):
        return repository.rpartition("--")[2]  # models--Qwen--Qwen3-8B/snapshots/0123abcd
    return folder.name


def model_name(path: str | Path) -> str:
    """The model's name: a folder's, or a GGUF file's without part number and float type.

    A link's own name counts, not its target's: in a Hugging Face cache that is a hash.
    """
    path = Path(os.path.abspath(path))
    return _FLOAT.sub("", stem(path) if path.suffix == ".gguf" else folder_name(path))


def stem(file: str | Path) -> str:
    """The name of a GGUF file without its ending and, of a part of a split model, without the part's number."""
    return _PART.sub("", Path(file).stem)


def variant_file(folder: str | Path, model: str, variant: str) -> Path:
    """Where the variant of a model is written: `folder/model-variant.gguf`.

    Settings of a variant (`MP:top=Q4_K,rest=IQ3_S`) become a number that stands for them: spelled out, the last of
    their types would be read as the whole file's.
    """
    head, colon, settings = variant.partition(":")
    number = int(hashlib.sha256(settings.encode()).hexdigest(), 16) % 10**6
    return Path(folder) / f"{model}-{_ODD.sub('-', f'{head}-{number:06d}' if colon else head)}.gguf"


def part_files(first: str | Path) -> list[Path]:
    """The parts of a split model, given the first; the file itself where it is not split."""
    first = Path(first)
    found = _PART.search(first.stem)
    if found is None:
        return [first]
    prefix, count = first.stem[: found.start()], int(first.stem[-5:])
    return [first.with_name(f"{prefix}-{number:05d}-of-{count:05d}.gguf") for number in range(1, count + 1)]


def first_part(file: str) -> str:
    """The first part of the split model that a file is a part of; the file itself where it is not one."""
    return re.sub(r"-\d{5}(-of-\d{5}\.gguf)$", r"-00001\1", file)


def hub_label(file: str | Path) -> str | None:
    """The quantization label that Hugging Face reads from a file's path in its repository, None without one."""
    found = list(_LABEL.finditer(str(file).upper()))
    return found[-1].group(0) if found else None


def tag(file: str, model: str) -> str:
    """What people write for a file in `user/repo:TAG`: its label, else what follows the model's name."""
    return hub_label(file) or stem(file).removeprefix(f"{model}-")


def hidden(file: str) -> bool:
    """Whether llama.cpp takes a file for no model, but for something that goes with one, by its name."""
    return any(mark in Path(file).name for mark in _HIDDEN)


def found_by_tag(tag: str, files: Iterable[str]) -> list[str]:
    """The models (of a split one, the first part) that `llama-server -hf user/repo:TAG` chooses from.

    It takes the first in the order that the Hub lists them in, which nobody promises. `files`: paths in the repository.
    """
    pattern = re.compile(re.escape(tag).replace(r"\.", ".") + "[.-]", re.IGNORECASE)
    models = [file for file in files if file.endswith(".gguf") and not hidden(file) and first_part(file) == file]
    return [file for file in models if pattern.search(file)]


def default_file(files: Iterable[str]) -> str | None:
    """The model that `llama-server -hf user/repo` takes: Q4_K_M, else Q8_0, else the first by name."""
    files = sorted(files)
    return next((found for name in (*_DEFAULTS, "") for found in found_by_tag(name, files)), None)
