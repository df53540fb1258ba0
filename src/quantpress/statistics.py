"""What is known of the inputs of a model's weights, as its encoder is told: importance, and second moments.

Whoever encodes asks for the tile of some rows, and need not know what the encoder will use.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from quantpress import moments as second_moments
from quantpress.arrays import Bytes, Floats
from quantpress.compensation import WITHOUT, Choices, Compensation, compensation_keys
from quantpress.encoding import COMPENSATED, Tile
from quantpress.errors import ImatrixError, InputError, PlanError
from quantpress.factor import knows
from quantpress.formats import TensorType
from quantpress.gguf import GGUF, Tensor
from quantpress.imatrix import Imatrix, check_model
from quantpress.imatrix import read as read_imatrix
from quantpress.moments import Moments
from quantpress.plan import Extra
from quantpress.progress import Progress

__all__ = ["Statistics", "moments_for", "open_compensation", "open_statistics"]

_SHOWN = 8  # names in a message
_HINT = "Collect them with `quantpress imatrix --moments`, or let it be encoded plainly with --allow-plain"


class Statistics:
    """Of one model; from `open_statistics`. Any thread may ask."""

    def __init__(self, model: GGUF, imatrix: Imatrix | None, compensation: Compensation | None = None) -> None:
        self.model, self.imatrix, self.compensation = model, imatrix, compensation
        self._importance: dict[str, Floats | None] = {}

    @property
    def choices(self) -> Choices:
        """How matrices were encoded: see `Compensation.choices`."""
        return {} if self.compensation is None else self.compensation.choices

    def metadata(self, extra: Extra) -> Extra:
        """The metadata `extra`, and what a file says of the moments that it was encoded with."""
        if self.compensation is None:
            return extra
        moments = self.compensation.moments
        return {**dict(extra), **compensation_keys(next(iter(moments.datasets), None), moments.chunk_count)}

    def importance(self, tensor: Tensor) -> Floats | None:
        """float32 [matrices, cols], or None."""
        if tensor.name not in self._importance:
            self._importance[tensor.name] = None if self.imatrix is None else self.imatrix.of(tensor)
        return self._importance[tensor.name]

    def tile(self, tensor: Tensor, start: int, data: Bytes, types: Sequence[TensorType]) -> Tile:
        """Rows of a tensor from `start` on, all of one matrix, uint8 [rows, bytes of a row] as in the source."""
        matrix, importance = start // (tensor.rows // tensor.matrices), self.importance(tensor)
        compensator = None if self.compensation is None else self.compensation.of(tensor, matrix)
        if self.compensation is not None and compensator is None and self._meets_input(tensor):
            for type in filter(knows, types):
                self.compensation.choices[tensor.name, matrix, type.name] = WITHOUT
        return Tile(
            tensor.name,
            start,
            data,
            tensor.type,
            tensor.cols,
            tuple(types),
            None if importance is None else importance[matrix],
            compensator,
        )

    def check(self, types: Iterable[Mapping[str, TensorType]], *, allow_plain: bool, progress: Progress) -> None:
        """Raise PlanError if a tensor of these plans would be compensated but for its moments, unless that is allowed.

        A tensor that meets no input (an embedding that is looked up) is always encoded plainly.
        """
        if self.compensation is None:
            return
        moments = self.compensation.moments
        wanted = {name for one in types for name, type in one.items() if knows(type)}
        tensors = [one for name, one in self.model.tensors.items() if name in wanted and self._meets_input(one)]
        bare = [words for tensor in tensors if (words := _without(moments, tensor))]
        if bare and not allow_plain:
            expected = "moments of every tensor to encode"
            raise PlanError(moments.path, "moments", expected=expected, found=f"none of {_listed(bare)}", hint=_HINT)
        if bare:
            progress.note(f"encoded plainly, without moments: {_listed(bare)}")
        few = [tensor.name for tensor in tensors if moments.covers(tensor) and _few(moments, tensor)]
        if few:
            progress.note(f"moments of fewer tokens than columns: {_listed(few)}; more text would serve them better")

    def _meets_input(self, tensor: Tensor) -> bool:
        if self.imatrix is not None:
            return self.imatrix.covers(tensor)
        return tensor.name.startswith("blk.") or tensor.name == "output.weight"


def _without(moments: Moments, tensor: Tensor) -> str:
    """The tensor, if it has no moments, and how many of its experts have none; else nothing."""
    if not moments.covers(tensor):
        return tensor.name
    unseen = int((moments.entries[moments.input_of(tensor.name)].counts == 0).sum())
    return f"{tensor.name} ({unseen} experts)" if unseen else ""


def _few(moments: Moments, tensor: Tensor) -> bool:
    entry = moments.entries[moments.input_of(tensor.name)]
    return bool((entry.counts < max(entry.blocks)).any())


@contextmanager
def open_statistics(
    model: GGUF, imatrix: str | Path | Imatrix | None, effort: str = "normal", moments: str | Path | None = None
) -> Iterator[Statistics]:
    """The statistics that an encoder with this effort uses, checked to be the model's.

    `moments`: default those beside the imatrix; for the effort "compensated" only. Raises ImatrixError, GGUFError, and
    InputError where moments are given and not used, or needed and not given.
    """
    found = _checked_imatrix(model, imatrix)
    if moments_for(effort, None if found is None else found.path, moments) is None:
        yield Statistics(model, found)
        return
    with open_compensation(model, found, moments) as compensation:
        yield Statistics(model, found, compensation)


@contextmanager
def open_compensation(
    model: GGUF, imatrix: str | Path | Imatrix | None, moments: str | Path | None
) -> Iterator[Compensation]:
    """What feedback needs of `moments`, or of those beside the imatrix; checks and raises as `open_statistics`."""
    found = _checked_imatrix(model, imatrix)
    with second_moments.read(_moments_path(None if found is None else found.path, moments)) as second:
        second_moments.check_model(second, model)
        if found is not None and moments is None:
            _check_same_run(second, found)
        with Compensation(model, second, found) as compensation:
            yield compensation


def _checked_imatrix(model: GGUF, imatrix: str | Path | Imatrix | None) -> Imatrix | None:
    found = read_imatrix(imatrix) if isinstance(imatrix, (str, Path)) else imatrix
    if found is not None:
        check_model(found, model)
    return found


def _check_same_run(moments: Moments, imatrix: Imatrix) -> None:
    """Raise ImatrixError where moments lie beside an imatrix that is of another run.

    An imatrix counts whole chunks of the tokens that were seen, as llama-imatrix does, and the last few of a batch are
    not: of 15 chunks it may say 14.
    """
    made = (moments.datasets, moments.chunk_count, moments.chunk_size)
    whole, one_more = ((imatrix.datasets, imatrix.chunk_count + unseen, imatrix.chunk_size) for unseen in (0, 1))
    if made not in (whole, one_more):
        expected, hint = f"those of {imatrix.path}, {whole}", "Name the file with --moments to use it all the same"
        raise ImatrixError(moments.path, "datasets, chunks", expected=expected, found=made, hint=hint)


def moments_for(effort: str, imatrix: str | Path | None, moments: str | Path | None) -> Path | None:
    """The file of moments that an effort needs, None if it needs none; raises InputError as `open_statistics`."""
    if effort != COMPENSATED:
        if moments is not None:
            expected = "the effort that uses them, compensated"
            raise InputError(Path(moments), "moments", expected=expected, found=effort, hint="Add --effort compensated")
        return None
    return _moments_path(imatrix, moments)


def _moments_path(imatrix: str | Path | None, moments: str | Path | None) -> Path:
    if moments is not None:
        return Path(moments)
    hint: dict[str, Any] = {"hint": "Collect them with `quantpress imatrix --moments`, or name them with --moments"}
    if imatrix is None:
        raise InputError(None, "moments", expected="second moments, for compensated encoding", found="none", **hint)
    path = second_moments.beside(imatrix)
    if not path.exists():
        raise InputError(path, "moments", expected="second moments beside the imatrix", found="no such file", **hint)
    return path


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
