"""How much each tensor suffers in each type: sums of errors, which cost seconds, and what probes have measured.

The error of a tensor in a type is what its layer's output is off by, on average, relative to the output itself:

    Σ importance[j] (w[i, j] - decoded[i, j])²  ÷  Σ importance[j] w[i, j]²

with the importance that the encoder is given (1 where there is none). Of a compensated tensor the numerator has all of
its second moments, since its errors are not independent. Of a large tensor a sample of rows is encoded,
the same number of each expert; rows are alike, so a million weights tell the error to a percent or two, and the
standard error says how well. Errors rank the types of one tensor well and tensors poorly: how much an output may be off
is another matter in every layer. That is measured (allocation/probing.py): a probe's slope is the change of the KL
divergence with the error of one group of tensors, and allocation/damage.py brings the two together.

`sensitivity.json` keeps both: what is in it is not computed again. It is tied to the model's tensors, the imatrix and
the encoder; probes also to the text, by the digest of its windows.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import astuple, dataclass, field
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantpress.encoding import tile_energies, tile_errors, tiles_of
from quantpress.errors import InputError
from quantpress.files import digest, file_digest, write_text
from quantpress.formats import TensorType
from quantpress.gguf import GGUF, Tensor
from quantpress.imatrix import Imatrix
from quantpress.progress import SILENT, Progress
from quantpress.statistics import Statistics
from quantpress.tiles import RowReader, in_threads

__all__ = ["Error", "Observation", "Observed", "Sensitivity", "add_errors", "fingerprint", "read_sensitivity"]

VERSION = 1
SAMPLE = 1 << 20  # weights of a tensor that are encoded, at least
_FEWEST_ROWS = 16  # of each matrix of a tensor
_SAVE_SECONDS = 30.0  # between two saves


@dataclass(frozen=True, slots=True)
class Error:
    """Relative weighted squared error, and the standard error that the sample of rows leaves (0: all rows)."""

    value: float
    uncertainty: float


@dataclass(frozen=True, slots=True)
class Observation:
    """A probe's slope: nats a unit of relative error, with its standard error."""

    slope: float
    error: float


Observed = dict[str, list[Observation]]  # by a group's tensors, joined with +


@dataclass
class Sensitivity:
    """What is known of a model; `identity` says of which, with which imatrix and encoder."""

    identity: dict[str, Any]
    errors: dict[str, dict[str, Error]] = field(default_factory=dict)  # tensor → type → error
    probes: dict[str, Observed] = field(default_factory=dict)  # by the text's digest
    path: Path | None = None

    @property
    def observed(self) -> Observed:
        """The probes on all texts."""
        names = dict.fromkeys(name for found in self.probes.values() for name in found)
        return {name: [one for found in self.probes.values() for one in found.get(name, ())] for name in names}

    def save(self) -> None:
        """Write `path`, if there is one; raises OutputError."""
        if self.path is None:
            return
        errors = {name: {type: astuple(one) for type, one in found.items()} for name, found in self.errors.items()}
        probes = {
            text: {name: list(map(astuple, found)) for name, found in observed.items()}
            for text, observed in self.probes.items()
        }
        values = {"version": VERSION, **self.identity, "errors": errors, "probes": probes}
        write_text(self.path, json.dumps(values, ensure_ascii=False) + "\n")


def fingerprint(model: GGUF, imatrix: Imatrix | None, moments: Path | None = None) -> dict[str, str | None]:
    """What tells a model and its statistics from others: names, shapes and types, and the first row of every tensor.

    A hash of all weights would take a minute of a large model; a fine-tune has changed every matrix.
    """
    rows = hashlib.sha256()
    with RowReader(model) as reader:
        for name, tensor in model.tensors.items():
            rows.update(f"{name} {list(tensor.shape)} {tensor.type.name}\n".encode())
            rows.update(reader.read(tensor, 0, 1).tobytes())
    path = None if imatrix is None else imatrix.path
    importance = None if path is None else file_digest(path)
    known = {"quantpress": version("quantpress"), "model": rows.hexdigest(), "imatrix": importance}
    return known if moments is None else {**known, "moments": file_digest(moments)}


def read_sensitivity(path: Path | None, identity: Mapping[str, Any]) -> Sensitivity:
    """What `path` knows, or nothing where there is no such file; InputError if it is damaged or of something else."""
    known: dict[str, Any] = json.loads(json.dumps(identity))  # as it comes back from a file
    if path is None or not path.exists():
        return Sensitivity(known, path=path)
    values = _parsed(path)
    for key, expected in {"version": VERSION, **known}.items():
        found = values.get(key)
        if found != expected:
            hint = "It is of another model, imatrix, encoder or version: give another file, or remove it"
            raise InputError(path, key, expected=expected or "none", found=found or "none", hint=hint)
    try:
        errors = {
            str(name): {str(type): Error(*_numbers(pair, 0)) for type, pair in found.items()}
            for name, found in values["errors"].items()
        }
        probes = {
            str(text): {str(name): [Observation(*_numbers(one)) for one in found] for name, found in seen.items()}
            for text, seen in values["probes"].items()
        }
    except (KeyError, AttributeError, TypeError, ValueError) as error:
        raise _damaged(path, error) from error
    return Sensitivity(known, errors, probes, path)


def add_errors(
    known: Sensitivity,
    statistics: Statistics,
    wanted: Mapping[str, Sequence[TensorType]],
    *,
    encoder: str = "quantpress",
    effort: str = "normal",
    threads: int = 1,
    progress: Progress = SILENT,
) -> None:
    """Add the errors of `wanted` (tensor to types) that `known` lacks, saving now and then.

    Raises PlanError for a type that the encoder does not know, InputError for weights that cannot be encoded.
    """
    missing = {
        name: [type for type in types if type.name not in known.errors.get(name, {})] for name, types in wanted.items()
    }
    missing = {name: types for name, types in missing.items() if types}
    if not missing:
        return
    model = statistics.model
    with RowReader(model) as reader, progress.task("errors", len(missing), "tensors") as advance:
        work, saved = partial(_tensor_errors, reader, statistics, encoder, effort), time.monotonic()
        jobs = (partial(work, model.tensors[name], tuple(types)) for name, types in missing.items())
        with closing(in_threads(jobs, threads)) as done:
            for name, found in done:
                known.errors.setdefault(name, {}).update(found)
                advance(1)
                if time.monotonic() - saved >= _SAVE_SECONDS:
                    known.save()
                    saved = time.monotonic()
    known.save()


def _tensor_errors(
    reader: RowReader,
    statistics: Statistics,
    encoder: str,
    effort: str,
    tensor: Tensor,
    types: tuple[TensorType, ...],
) -> tuple[str, dict[str, Error]]:
    """(name, type → error) of one tensor."""
    rows = tensor.rows // tensor.matrices
    sums, energies = [], []
    for matrix in range(tensor.matrices):
        for start, stop in _runs(_sample(tensor, matrix)):
            data = reader.read(tensor, matrix * rows + start, matrix * rows + stop)
            tile = statistics.tile(tensor, matrix * rows + start, data, types)
            with tiles_of(statistics.model.path):
                sums.append(tile_errors(tile, encoder, effort))
            energies.append(tile_energies(tile))
    found = _ratios(np.concatenate(sums, axis=1), np.concatenate(energies), tensor.rows)
    return tensor.name, dict(zip((type.name for type in types), found, strict=True))


def _sample(tensor: Tensor, matrix: int) -> NDArray[np.int64]:
    """The rows of a matrix to encode, ascending: all, or enough of them, the same ones every time."""
    rows = tensor.rows // tensor.matrices
    count = max(_FEWEST_ROWS, -(-SAMPLE // (tensor.cols * tensor.matrices)))
    if count >= rows:
        return np.arange(rows)
    seed = int(digest([tensor.name, matrix])[:16], 16)
    return np.sort(np.random.default_rng(seed).choice(rows, count, replace=False))


def _runs(rows: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Ascending rows as ranges [start, stop)."""
    for run in np.split(rows, np.flatnonzero(np.diff(rows) != 1) + 1):
        yield int(run[0]), int(run[-1]) + 1


def _ratios(sums: NDArray[np.float64], energies: NDArray[np.float64], rows: int) -> list[Error]:
    """Σ error ÷ Σ energy for each type [types, sampled rows], with the standard error of such a ratio."""
    count, total = len(energies), max(float(energies.sum()), np.finfo(np.float64).tiny)
    values = sums.sum(axis=1) / total
    spread = ((sums - values[:, None] * energies) ** 2).sum(axis=1) * count / max(count - 1, 1)
    errors = np.sqrt(spread * (1 - count / rows)) / total
    return [Error(float(value), float(error)) for value, error in zip(values, errors, strict=True)]


def _parsed(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise _damaged(path, error) from error
    if not isinstance(values, dict):
        raise _damaged(path, values.__class__.__name__)
    return values


def _numbers(values: Sequence[Any], least: float = -math.inf) -> list[float]:
    """As floats; raises TypeError or ValueError for anything but finite numbers from `least` on."""
    for one in values:
        if isinstance(one, bool) or not isinstance(one, (int, float)) or not (math.isfinite(one) and one >= least):
            raise ValueError(f"{one!r} in place of a number")
    return [float(one) for one in values]


def _damaged(path: Path, found: object) -> InputError:
    expected = "what `quantpress plan` writes"
    return InputError(path, "sensitivity", expected=expected, found=found, hint="Give another path")
