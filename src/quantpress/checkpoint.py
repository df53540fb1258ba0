"""A Hugging Face folder: its JSON files, and its tensors, of which nothing is read before it is asked for.

The weights are one `model.safetensors`, or else the shards that `model.safetensors.index.json` lists, as transformers
looks for them; other safetensors files are of no interest. Pickle checkpoints are refused: to load one is to run
whatever program it holds.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from quantpress.errors import CheckpointError
from quantpress.names import folder_name
from quantpress.safetensors import StoredTensor, read_safetensors

__all__ = ["INDEX", "Checkpoint", "Section", "assembled", "read", "weight_files"]

INDEX = "model.safetensors.index.json"
_SINGLE = "model.safetensors"
_SHARD = re.compile(r"model-\d{5}-of-(\d{5})\.safetensors")
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_MAX_JSON_BYTES = 256 << 20


@dataclass(frozen=True)
class Section:
    """An object of a JSON file. A field is read as the type that is wanted; null counts as absent.

    Every reader raises CheckpointError, which names file and field, where the field has another type, and where it is
    absent and no default is given.
    """

    path: Path
    values: Mapping[str, Any]
    name: str = ""

    def get(self, key: str, default: Any = None) -> Any:
        """The value as it is."""
        value = self.values.get(key)
        return default if value is None else value

    def integer(self, key: str, default: Any = None, *, least: int = 1) -> int:
        """A whole number from `least` to 2^31 - 1."""
        value = self.get(key, default)
        if type(value) is not int or not least <= value < 1 << 31:
            raise self.error(key, f"a whole number from {least} on", value)
        return value

    def number(self, key: str, default: Any = None) -> float:
        """A positive, finite number."""
        value = self.get(key, default)
        if type(value) not in (int, float) or not 0 < value < float("inf"):
            raise self.error(key, "a positive number", value)
        return float(value)

    def text(self, key: str, default: Any = None) -> str:
        """A string that has UTF-8 (JSON can spell half of a surrogate pair)."""
        value = self.get(key, default)
        if not isinstance(value, str) or any("\ud800" <= letter <= "\udfff" for letter in value):
            raise self.error(key, "a string of Unicode", value)
        return value

    def items(self, key: str) -> list[Any]:
        """A list; empty where it is absent."""
        value = self.get(key, [])
        if not isinstance(value, list):
            raise self.error(key, "a list", value)
        return value

    def section(self, key: str) -> Section:
        """An object; empty where it is absent."""
        value = self.get(key, {})
        if not isinstance(value, dict):
            raise self.error(key, "an object", value)
        return Section(self.path, value, self._field(key))

    def merged(self, other: Mapping[str, Any]) -> Section:
        """The same with the fields of `other` that are not null put in place of its own."""
        return replace(self, values={**self.values, **{key: new for key, new in other.items() if new is not None}})

    def error(self, key: str, expected: object, found: object, hint: str | None = None) -> CheckpointError:
        """The error that names this file and field."""
        return CheckpointError(self.path, self._field(key), expected=expected, found=repr(found)[:80], hint=hint)

    def _field(self, key: str) -> str:
        return f"{self.name}.{key}" if self.name else key


@dataclass(frozen=True)
class Checkpoint:
    """A folder that was opened by `read`; `tensors` are in the order of the files, in each by name.

    `close` ends what may be fetching files of it; whoever waits for one gets an error.
    """

    path: Path
    config: Section
    tensors: Mapping[str, StoredTensor] = field(repr=False)
    model: str = ""
    close: Callable[[], None] = field(default=lambda: None, repr=False)

    @property
    def name(self) -> str:
        """The model's: the name of the folder that people have it in, or of the repository in the Hub's cache."""
        return self.model or folder_name(self.path) or "model"

    def json(self, name: str) -> Section | None:
        """An object in a JSON file of the folder, None where there is no such file."""
        path = self.path / name
        return _read_object(path) if path.is_file() else None

    def text(self, name: str) -> str | None:
        """A text file of the folder, None where there is none."""
        path = self.path / name
        return _read_text(path) if path.is_file() else None


def read(path: str | Path) -> Checkpoint:
    """Open a checkpoint: config.json, and the headers of all safetensors files, validated.

    Raises CheckpointError for what is no such folder, a pickle checkpoint, a malformed or missing file, and an index
    that does not agree with the shards.
    """
    folder = Path(os.path.abspath(path))  # a symbolic link keeps its name, which becomes the model's
    if not folder.is_dir():
        found = "a file" if folder.exists() else "nothing there"
        hint = "A GGUF file needs no conversion: use it as it is" if folder.suffix == ".gguf" else None
        expected = "a folder with config.json and safetensors files"
        raise CheckpointError(path, "checkpoint", expected=expected, found=found, hint=hint)
    return assembled(folder, {file.name for file in folder.iterdir() if file.is_file()}, read_safetensors)


def assembled(folder: Path, files: Collection[str], header: Callable[[Path], Mapping[str, StoredTensor]]) -> Checkpoint:
    """The checkpoint of a folder that has, or will have, these files; `header` reads the tensors of one.

    Its JSON files must be there. Raises what `read` raises.
    """
    if "config.json" not in files:
        raise CheckpointError(folder, "config.json", expected="a file", found="none")
    return Checkpoint(folder, _read_object(folder / "config.json"), _tensors(folder, files, header))


def weight_files(folder: Path, files: Collection[str]) -> list[str]:
    """The safetensors files among the `files` of a folder: the single one, or what the index names.

    Raises CheckpointError for a malformed index, and where files are missing or none is safetensors.
    """
    index = _index(folder, files)
    return _without_index(folder, files) if index is None else _shards(folder, files, index)


def _shards(folder: Path, files: Collection[str], index: Mapping[str, str]) -> list[str]:
    names = sorted(set(index.values()))
    if missing := [name for name in names if name not in files]:
        raise CheckpointError(folder, "shards", expected="all that the index names", found=f"no {', '.join(missing)}")
    return names


def _tensors(
    folder: Path, files: Collection[str], header: Callable[[Path], Mapping[str, StoredTensor]]
) -> dict[str, StoredTensor]:
    tensors: dict[str, StoredTensor] = {}
    index = _index(folder, files)
    for name in _without_index(folder, files) if index is None else _shards(folder, files, index):
        for tensor in header(folder / name).values():
            if tensor.name in tensors:
                other = tensors[tensor.name].path.name
                raise CheckpointError(folder / name, tensor.name, expected="one shard with it", found=f"also {other}")
            tensors[tensor.name] = tensor
    if index is not None:
        _check_index(folder / INDEX, index, tensors)
    return tensors


def _index(folder: Path, files: Collection[str]) -> dict[str, str] | None:
    """Tensor to file, None where no index counts: beside a single file it is a left-over."""
    return _read_weight_map(folder / INDEX) if INDEX in files and _SINGLE not in files else None


def _without_index(folder: Path, files: Collection[str]) -> list[str]:
    if _SINGLE in files:
        return [_SINGLE]
    shards = [found for name in sorted(files) if (found := _SHARD.fullmatch(name))]
    if [int(shard[1]) for shard in shards] == [1]:
        return [shards[0][0]]
    if shards:
        raise CheckpointError(folder, INDEX, expected="a file, as there are shards", found="none")
    pickles = sorted(name for name in files if name.endswith(_PICKLES))
    if pickles:
        hint = (
            "A pickle may run any program when it is loaded. Convert it to safetensors: load it where you trust it, "
            "and save it with transformers' save_pretrained(…, safe_serialization=True)"
        )
        raise CheckpointError(folder, "weights", expected="safetensors", found=f"pickle ({pickles[0]})", hint=hint)
    others = ", ".join(sorted(name for name in files if name.endswith(".safetensors"))[:5])
    raise CheckpointError(folder, "weights", expected=f"{_SINGLE} or {INDEX}", found=others or "neither")


def _read_weight_map(path: Path) -> dict[str, str]:
    weight_map = _read_object(path).section("weight_map")
    for tensor in weight_map.values:
        shard = weight_map.text(tensor)
        if Path(shard).name != shard or not shard.endswith(".safetensors"):
            raise weight_map.error(tensor, "the name of a safetensors file in this folder", shard)
    return dict(weight_map.values)


def _check_index(path: Path, index: Mapping[str, str], tensors: Mapping[str, StoredTensor]) -> None:
    for name, shard in index.items():
        if name not in tensors:
            raise CheckpointError(path, name, expected=f"a tensor in {shard}", found="no shard that holds it")
        if tensors[name].path.name != shard:
            raise CheckpointError(path, name, expected=f"a tensor in {shard}", found=tensors[name].path.name)
    if unlisted := sorted(tensors.keys() - index.keys()):
        found = f"{len(unlisted)} more: {', '.join(unlisted[:5])}"
        raise CheckpointError(path, "weight_map", expected="every tensor of the shards", found=found)


def _read_object(path: Path) -> Section:
    try:
        value = json.loads(_read_text(path))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(path, "file", expected="JSON", found=error) from error
    if not isinstance(value, dict):
        raise CheckpointError(path, "file", expected="a JSON object", found=type(value).__name__)
    return Section(path, value)


def _read_text(path: Path) -> str:
    try:
        size = path.stat().st_size
        if size > _MAX_JSON_BYTES:
            raise CheckpointError(path, "size", expected=f"at most {_MAX_JSON_BYTES:,} bytes", found=f"{size:,}")
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise CheckpointError(path, "cannot be read", found=error.strerror) from error
    except UnicodeDecodeError as error:
        raise CheckpointError(path, "file", expected="UTF-8", found=error) from error
