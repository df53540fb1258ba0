"""Collect second moments in as many passes over the text as the memory asks for, resumably.

A first look at the model's graph says which weights share an input and how wide it is. Each pass then takes as many
matrices as fit into the memory; what it finds is written beside the result, with a digest of all that it depends on,
and the passes' files are put together at the end. The last layers come first: later passes then evaluate nothing behind
the inputs that they collect (except in models with experts), and cost half as much on average. A run that was
interrupted goes on after its last whole pass. Neither the number of passes nor that of threads changes a byte.

Every eighth chunk (of fewer than eight, the last) is held out: none of its tokens is summed, and some of them are kept
as they are, so that an encoder can choose its damping on inputs that the sums have not seen.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from quantpress import gguf
from quantpress.available import available_memory
from quantpress.engine import Engine, Tokens
from quantpress.engine.inputs import Collected, Input, Range, Seen
from quantpress.errors import GGUFError, ImatrixError, InputError
from quantpress.files import digest
from quantpress.moments.file import (
    MOMENTS,
    SAMPLE,
    SAMPLES,
    Entry,
    entries_of,
    header_keys,
    write_rows,
    writing,
)
from quantpress.origin import Header
from quantpress.progress import Progress
from quantpress.sizes import human_size
from quantpress.strips import ROWS, blocks_of, packed_size

__all__ = ["WIDTH", "Collection", "check_settings", "collect", "held_out", "passes", "remove_parts", "usual_memory"]

WIDTH = 16384  # 1.07 GB of float64 sums; wider inputs are those of a 30 B model's feed-forward output
_EVERY = 8
_MICRO_BATCH = 512
_WAITING = 512  # rows of an input that the engine lets wait for a product
_KIND = "quantpress.partial-moments"

Squares = Callable[[int, dict[str, tuple[Any, Any]]], None]


def usual_memory() -> int:
    """Bytes for the matrices of a pass where nothing is said: half of what this machine has to give."""
    return available_memory().bytes // 2


@dataclass(frozen=True)
class Collection:
    """What is to be collected, and where to.

    `memory` in bytes, for the matrices of a pass; `width`: of wider inputs only diagonal blocks are kept; `identity`: a
    digest of model, text and settings; `resume`: go on from what an interrupted run has left.
    """

    out: Path
    header: Header
    identity: str
    memory: int = field(default_factory=usual_memory)
    width: int = WIDTH
    resume: bool = True
    every: int = 16
    process_output: bool = False


def check_settings(memory: int, width: int) -> None:
    """Raise InputError for a width that no block can have, or no memory."""
    if width < ROWS:
        raise InputError(None, "moments-width", expected=f"at least {ROWS} columns", found=width)
    if memory < 1:
        raise InputError(None, "moments-memory", expected="at least one byte", found=memory)


def held_out(chunks: int) -> list[int]:
    """The chunks whose tokens are not summed: 7, 15, …; of fewer than eight the last, of one none."""
    return list(range(_EVERY - 1, chunks, _EVERY)) or ([chunks - 1] if chunks > 1 else [])


def collect(
    engine: Engine, windows: Tokens, job: Collection, squares: Squares | None = None, progress: Progress | None = None
) -> Path:
    """Write the moments of a model's inputs over int32 windows [n, length], and return the file's path.

    `squares`, if given, is called in the first pass with (chunks done, what `Engine.activations` yields). The files of
    the passes stay, until `remove_parts`: whoever calls may have to finish something else first. Raises InputError if a
    single matrix does not fit into the memory, ImatrixError, EngineError, OutputError.
    """
    progress = progress or Progress()
    found = engine.inputs(windows[0, :_MICRO_BATCH], process_output=job.process_output)
    if not found:
        raise ImatrixError(engine.child.model, "moments", expected="products with weights named blk.*", found="none")
    tokens = len(held_out(len(windows))) * windows.shape[1]
    plan = passes(found, job, tokens)[::-1]
    stop = not any(one.routed for one in found)
    size = sum(_bytes(one, blocks_of(one.cols, job.width), tokens) * one.matrices for one in found)
    words = f"{len(plan)} pass{'es' if len(plan) > 1 else ''} over the text"
    progress.note(f"moments of {len(found)} inputs, {human_size(size)} in memory: {words}")
    with progress.task("imatrix, moments", total=len(windows) * len(plan), unit="chunks") as advance:
        for number, wanted in enumerate(plan):
            part = _Part(_part_path(job.out, number), _digest(job, windows, wanted), wanted)
            if job.resume and (squares is None or number > 0) and part.done(progress):
                advance(len(windows))
            else:
                part.make(engine, windows, job, squares if number == 0 else None, stop, advance)
    return _joined(job, len(plan))


def passes(inputs: Sequence[Input], job: Collection, held_tokens: int) -> list[list[Range]]:
    """The matrices that each pass collects, in the graph's order; raises InputError if one alone takes too much.

    Sums are float64, and while a matrix is handed over there is a copy of it.
    """
    plan: list[list[Range]] = [[]]
    used = largest = 0
    for one in inputs:
        blocks = blocks_of(one.cols, job.width)
        each, copy = _bytes(one, blocks, held_tokens), 8 * packed_size(blocks)
        if each + copy > job.memory:
            expected = f"at least {human_size(each + copy)}, for one matrix of {one.name}"
            hint = "Allow more, or set a smaller moments-width"
            raise InputError(None, "moments-memory", expected=expected, found=human_size(job.memory), hint=hint)
        first = 0
        while first < one.matrices:
            fit = (job.memory - used - max(largest, copy)) // each
            if fit < 1:
                plan.append([])
                used = largest = 0
                continue
            last = min(one.matrices, first + fit)
            plan[-1].append(Range(one, first, last, blocks))
            used, largest, first = used + (last - first) * each, max(largest, copy), last
    return plan


def _bytes(one: Input, blocks: Sequence[int], held_tokens: int) -> int:
    """Of a matrix while it is collected: its sums, the rows that wait and those that are kept."""
    return 8 * packed_size(blocks) + 4 * one.cols * (_WAITING + min(SAMPLES, held_tokens * one.rows))


def _part_path(out: Path, number: int) -> Path:
    return out.with_name(f"{out.name}.pass-{number + 1}.partial")


def remove_parts(out: Path) -> None:
    """Remove the files of the passes of any run that wrote `out`."""
    form = re.compile(re.escape(out.name) + r"\.pass-\d+\.partial")
    for path in out.parent.iterdir():
        if form.fullmatch(path.name):
            path.unlink(missing_ok=True)


def _digest(job: Collection, windows: Tokens, wanted: Sequence[Range]) -> str:
    """Of all that decides what a pass finds."""
    ranges = [
        [list(one.input.weights), one.input.cols, one.input.matrices, one.first, one.last, list(one.blocks)]
        for one in wanted
    ]
    return digest({"identity": job.identity, "samples": SAMPLES, "held out": held_out(len(windows)), "ranges": ranges})


@dataclass(frozen=True)
class _Part:
    """What one pass finds: a file like the result, of some matrices of some inputs."""

    path: Path
    identity: str
    wanted: list[Range]

    def done(self, progress: Progress) -> bool:
        """Whether an earlier run has made it."""
        if not self.path.exists():
            return False
        try:
            with gguf.read(self.path) as file:
                same = bool(file.get("partial.identity") == self.identity)
                if same:
                    entries_of(file)
        except (GGUFError, ImatrixError) as error:
            progress.note(f"{error}: starting again")
            return False
        note = "going on after this pass" if same else "made from another model, text or settings: starting again"
        progress.note(f"{self.path}: {note}")
        return same

    def make(
        self,
        engine: Engine,
        windows: Tokens,
        job: Collection,
        squares: Squares | None,
        stop: bool,
        advance: Callable[[int], None],
    ) -> None:
        """Run the text through the model and write the file."""
        items = engine.moments(
            windows,
            held_out=held_out(len(windows)),
            wanted=self.wanted,
            sample=SAMPLES,
            every=job.every,
            squares=squares is not None,
            process_output=job.process_output,
            stop=stop,
        )
        done, entries = 0, None
        for item in items:
            if isinstance(item, tuple):
                if squares is not None:
                    squares(*item)
                advance(item[0] - done)
                done = item[0]
            elif isinstance(item, dict):
                entries = self._entries(item)
                self._write(entries, items)
        if entries is None:
            raise ImatrixError(None, "moments", expected="what was seen", found="the engine's end")

    def _entries(self, seen: dict[str, Seen]) -> dict[str, Entry]:
        entries = {}
        for one in self.wanted:
            found = seen[one.input.name]
            entries[one.input.name] = Entry(one.input.weights, one.blocks, found.counts, found.sampled)
        return entries

    def _write(self, entries: dict[str, Entry], items: Iterator[Any]) -> None:
        metadata = {
            "general.type": gguf.Value.string(_KIND),
            "partial.identity": gguf.Value.string(self.identity),
        }
        firsts = {one.input.name: one.first for one in self.wanted}
        with writing(self.path, metadata, entries) as writer:
            for one in items:
                _check_range(one)
                matrix = one.matrix - firsts[one.name]
                write_rows(writer, one.name + MOMENTS, matrix, one.sums[None])
                write_rows(writer, one.name + SAMPLE, int(entries[one.name].sampled[:matrix].sum()), one.sample)


def _check_range(found: Collected) -> None:
    if not np.isfinite(found.sums).all():
        raise ImatrixError(None, found.name, expected="sums that a float32 can hold", found="an overflow")


def _joined(job: Collection, count: int) -> Path:
    """The passes' files as one; inputs whose matrices several of them hold come in order."""
    with ExitStack() as stack:
        parts = [stack.enter_context(gguf.read(_part_path(job.out, number))) for number in reversed(range(count))]
        entries: dict[str, Entry] = {}
        for part in parts:
            for name, entry in entries_of(part).items():
                entries[name] = _extended(entries[name], entry) if name in entries else entry
        rows = {name + suffix: 0 for name in entries for suffix in (MOMENTS, SAMPLE)}
        with writing(job.out, header_keys(job.header), entries) as writer:
            for part in parts:
                for name in part.tensors.keys() & rows.keys():
                    data = part.data(name)
                    write_rows(writer, name, rows[name], data)
                    rows[name] += len(data)
    return job.out


def _extended(entry: Entry, more: Entry) -> Entry:
    counts, sampled = (np.concatenate(pair) for pair in ((entry.counts, more.counts), (entry.sampled, more.sampled)))
    return replace(entry, counts=counts, sampled=sampled)
