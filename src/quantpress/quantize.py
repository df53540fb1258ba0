"""A float model to any number of quantized files, in one pass over its weights.

The source is read once, tile by tile (tiles.py). A tile is decoded once and encoded once to each type that any of the
files wants of it (encoding.py), and the bytes go to their place in every file that wants them (gguf.Writer). So memory
is bounded by threads × tile, and what ten files want in Q6_K is encoded once.

The obvious alternative, a run of llama-quantize a file, reads and encodes everything again for each. With
`encoder="ggml"` the bytes of every tensor are those that it writes, on any number of threads. Its rules are kept too:
what the importance matrix does not cover is encoded without it, or refused where the type needs it; a source that is
quantized already is refused unless asked for.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from quantpress import gguf
from quantpress.arrays import Bytes
from quantpress.compensation import WITHOUT, Choices
from quantpress.cpu import default_threads
from quantpress.encoding import COMPENSATED, PLAIN, Encoder, check_encodable, encode_tile, encoder_named, tiles_of
from quantpress.errors import DiskFullError, PlanError
from quantpress.files import check_place, make_folder
from quantpress.formats import TensorType
from quantpress.gguf import GGUF, Tensor, TensorSpec, Writer, folder_writer
from quantpress.imatrix import Imatrix, covered
from quantpress.metadata import quantized_metadata
from quantpress.names import model_name, variant_file
from quantpress.plan import Extra, Plan, check, missing_importance, plan, read_plan
from quantpress.progress import SILENT, Progress
from quantpress.statistics import Statistics, open_statistics
from quantpress.tiles import RowReader, cuts, in_threads

__all__ = ["quantize"]

_SHOWN = 8  # names in a message
_Encode = Callable[..., list[Bytes]]  # of a tile and `effort`


@dataclass(frozen=True)
class _Task:
    """One tensor and who wants it in which type, encoded with which effort."""

    tensor: Tensor
    writers: Mapping[TensorType, list[Writer]]
    effort: str


def quantize(
    model: str | Path,
    *,
    out: str | Path,
    types: Sequence[str] = (),
    plans: Sequence[str | Path | Plan] = (),
    imatrix: str | Path | None = None,
    encoder: str = "quantpress",
    effort: str = "normal",
    moments: str | Path | None = None,
    allow_plain: bool = False,
    threads: int | None = None,
    split_bytes: int | None = None,
    extra: Extra = (),
    allow_requantize: bool = False,
    choices: Choices | None = None,
    progress: Progress = SILENT,
) -> list[Path]:
    """Write `out/<model>-<type>.gguf` for each of `types` (recipes) and `plans`; return their paths in that order.

    Args:
        model: a GGUF file in BF16, F16 or F32, or the first part of a split one.
        out: a folder, made if missing. Files of the same names are replaced once the new ones are complete; the model
            itself is not.
        types: names of recipes, see `recipes.RECIPES`.
        plans: plans of this model or their `plan.json` files.
        imatrix: an importance matrix of this model.
        encoder: who encodes, see `encoding.ENCODERS`.
        effort: time spent on a smaller error, see `codec.EFFORTS`, or "compensated"; ggml's encoder has "normal" only.
        moments: second moments, for the effort "compensated"; default those beside the imatrix.
        allow_plain: encode a tensor without moments plainly, instead of refusing it.
        threads: default all that this process may use. The bytes do not depend on it.
        split_bytes: a file that would be larger becomes a folder `<model>-<type>` of numbered parts; the path of the
            first is returned.
        extra: metadata to add, as in `quantized_metadata`.
        allow_requantize: take a source that is quantized already, at a loss.
        choices: is given how each matrix was encoded, if it could be compensated: see `compensation.Choices`.
        progress: counts weights of the source.

    Raises:
        PlanError: an unknown recipe, nothing to do, a quantized source, a file in place of the source, or a type that
            needs an importance matrix where there is none. ImatrixError: it is of another model. GGUFError, InputError:
            the source is malformed, or a weight is NaN or infinite. DiskFullError (before anything is written, for all
            the files together), OutputError.
    """
    coder, workers = encoder_named(encoder, effort), _checked_threads(threads)
    with gguf.read(model) as source, open_statistics(source, imatrix, effort, moments) as statistics:
        importance, extra = statistics.imatrix, statistics.metadata(extra)
        asked = _planned(source, types, plans, importance, extra, progress)
        planned = [one for index, one in enumerate(asked) if one not in asked[:index]]
        for one in planned:
            _check_importance(source, one, importance, coder)
            _check_source(source, one, allow_requantize, encoder)
        _note_uncovered(source, planned, importance, progress)
        compensable = ({name: type for name, type in one.types.items() if name not in one.plain} for one in planned)
        statistics.check(compensable, allow_plain=allow_plain, progress=progress)
        outputs = _outputs(source, Path(out), planned, importance, split_bytes, extra)
        _note_sizes(planned, outputs, progress)
        with _open(outputs, Path(out)):
            tasks = list(_tasks(source, planned, outputs, effort))
            _run(statistics, tasks, partial(encode_tile, encoder=encoder), workers, progress)
        _note_choices(statistics.choices, progress)
        if choices is not None:
            choices.update(statistics.choices)
        return [outputs[planned.index(one)].paths[0] for one in asked]


def _checked_threads(threads: int | None) -> int:
    if threads is not None and threads < 1:
        raise PlanError(None, "threads", expected="at least 1", found=threads)
    return threads or default_threads()


def _note_choices(choices: Choices, progress: Progress) -> None:
    """Say how many matrices were compensated, and which were not worth it."""
    plain = {key: one for key, one in choices.items() if one.damping is None}
    if choices:
        progress.note(f"compensated: {len(choices) - len(plain)} of {len(choices)} matrices")
    if worse := dict.fromkeys(f"{name} in {type}" for (name, _, type), one in plain.items() if one != WITHOUT):
        progress.note(f"no better compensated, so encoded plainly: {', '.join(worse)}")


def _planned(
    source: GGUF,
    types: Sequence[str],
    plans: Sequence[str | Path | Plan],
    importance: Imatrix | None,
    extra: Extra,
    progress: Progress,
) -> list[Plan]:
    """A plan a request."""
    info = importance.info if importance is not None else None
    found = [plan(source, type=type, imatrix=info, extra=extra, progress=progress) for type in types]
    for given in plans:
        one = given if isinstance(given, Plan) else read_plan(given, source, extra=extra)
        check(source, one.types)
        found.append(one)
    if not found:
        raise PlanError(source.path, "types", expected="at least one type or plan", found="none")
    return found


def _check_importance(source: GGUF, one: Plan, importance: Imatrix | None, encoder: Encoder) -> None:
    """Raise PlanError where importance is needed and missing, with the tensors' names."""
    hint = "Make an importance matrix with `quantpress imatrix` and give it with --imatrix"
    if one.imatrix is not None and importance is None:
        found = f"none; the plan was made for {one.imatrix.file or 'one'}"
        raise PlanError(source.path, f"{one.recipe}", expected="an importance matrix", found=found, hint=hint)
    with_one = covered(importance, source) if importance is not None else ()
    missing = missing_importance(one, with_one)
    needing = (name for name, type in one.types.items() if type.needs_imatrix and encoder.requires_importance(type))
    missing += [name for name in needing if name not in with_one and name not in missing]
    if missing:
        names = ", ".join(f"{name} ({one.tensors[name]})" for name in missing[:_SHOWN])
        more = f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
        expected = f"an importance matrix that covers {names}{more}"
        found = f"one without {'it' if len(missing) == 1 else 'them'}" if importance is not None else "none"
        raise PlanError(source.path, one.recipe, expected=expected, found=found, hint=f"{hint}, or choose another type")


def _check_source(source: GGUF, one: Plan, allow_requantize: bool, encoder: str) -> None:
    for name, type in one.types.items():
        found = source.tensors[name].type
        if type is found:
            continue
        check_encodable([type], encoder, name)
        if found.quantized and not allow_requantize:
            hint = "Start from the float file: quantizing twice adds the errors up. --allow-requantize does it"
            raise PlanError(source.path, f"tensor {name}", expected="a float type", found=found.name, hint=hint)


def _note_uncovered(source: GGUF, planned: Sequence[Plan], importance: Imatrix | None, progress: Progress) -> None:
    """Say which tensors are encoded without importance although there is a matrix, as llama-quantize does."""
    if importance is None:
        return
    quantized = {name: None for one in planned for name in one.matrices if one.types[name].quantized}
    with_one = covered(importance, source)
    bare = [name for name in quantized if name not in with_one]
    if bare:
        more = f" and {len(bare) - _SHOWN} more" if len(bare) > _SHOWN else ""
        progress.note(f"not covered by the importance matrix: {', '.join(bare[:_SHOWN])}{more}")


def _outputs(
    source: GGUF,
    out: Path,
    planned: Sequence[Plan],
    importance: Imatrix | None,
    split_bytes: int | None,
    extra: Extra,
) -> list[Writer]:
    """A writer a plan, not open; folders are made."""
    info = importance.info if importance is not None else None
    writers: dict[Path, Writer] = {}
    for one in planned:
        path = variant_file(out, model_name(source.path), one.recipe)
        if path in writers:
            raise PlanError(path, "outputs", expected="a name for each", found=f"two that are called {one.recipe}")
        metadata = quantized_metadata(source, one.file_type, info, extra)
        specs = [TensorSpec(name, source.tensors[name].shape, type) for name, type in one.types.items()]
        writer = folder_writer(path, metadata, specs, split_bytes)
        check_place(writer.paths, source.paths)
        writers[path] = writer
    for writer in writers.values():
        make_folder(writer.paths[0].parent)
    return list(writers.values())


def _note_sizes(planned: Sequence[Plan], writers: Sequence[Writer], progress: Progress) -> None:
    """Say where a file is not of the planned size: its header tells of another importance matrix or other metadata."""
    for one, writer in zip(planned, writers, strict=True):
        if len(writer.paths) == 1 and writer.sizes[0] != one.bytes:
            why = "its metadata (the importance matrix, what was added) is not what the plan was made with"
            progress.note(f"{writer.paths[0].name}: {writer.sizes[0]:,} bytes, planned {one.bytes:,}: {why}")


@contextmanager
def _open(writers: Sequence[Writer], out: Path) -> Iterator[None]:
    """All the files or, after an error, none."""
    with ExitStack() as stack:
        for writer in writers:
            stack.enter_context(writer)
        _check_space(out, writers)
        yield


def _check_space(out: Path, writers: Sequence[Writer]) -> None:
    """Each writer has looked for itself; together they need more. What killed runs left is removed by now."""
    needed, free = sum(sum(writer.sizes) for writer in writers), shutil.disk_usage(out).free
    if needed > free:
        raise DiskFullError(out, needed, free)


def _tasks(source: GGUF, planned: Sequence[Plan], writers: Sequence[Writer], effort: str) -> Iterator[_Task]:
    """A tensor is one task, or two where some of the plans have it encoded plainly and others do not."""
    for name, tensor in source.tensors.items():
        wanted: dict[str, dict[TensorType, list[Writer]]] = {}
        for one, writer in zip(planned, writers, strict=True):
            own = PLAIN if effort == COMPENSATED and name in one.plain else effort
            wanted.setdefault(own, {}).setdefault(one.types[name], []).append(writer)
        yield from (_Task(tensor, types, own) for own, types in wanted.items())


def _run(statistics: Statistics, tasks: Sequence[_Task], encode: _Encode, threads: int, progress: Progress) -> None:
    """Read, encode and write every tile of every task."""
    source = statistics.model
    weights = sum(task.tensor.weights for task in tasks)
    with RowReader(source) as reader, progress.task("quantize", weights, "weights") as advance:
        jobs = (
            partial(_encode, reader, statistics, task, start, stop, encode)
            for task in tasks
            for start, stop in cuts(task.tensor, len(task.writers))
        )
        with closing(in_threads(jobs, threads)) as done:
            for count in done:
                advance(count)


def _encode(reader: RowReader, statistics: Statistics, task: _Task, start: int, stop: int, encode: _Encode) -> int:
    """One tile from the source to all its places; returns its weights."""
    tensor = task.tensor
    tile = statistics.tile(tensor, start, reader.read(tensor, start, stop), tuple(task.writers))
    with tiles_of(statistics.model.path):
        found = encode(tile, effort=task.effort)
    for writers, encoded in zip(task.writers.values(), found, strict=True):
        for writer in writers:
            writer.write(tensor.name, start, encoded)
    return (stop - start) * tensor.cols
