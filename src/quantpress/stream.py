"""A release where the disk is small: as many files at a time as it holds are made, measured, sent and removed here.

    forecast → [quantize → damage, memory, speed → send, verify, remove] … → pictures, card → publish: the card last

At once there are the float model, the importance matrix, the float model's predictions on the evaluation text, and the
files of a round, one at least; before them, the predictions that automatic plans are searched with. So much is told
before any work, and refused where the disk has less. A file is removed when the Hub has named its hash and release.json
says that it is there; the float model stays to the end. A file that is on the Hub is not made again as long as all that
the page says of it is known.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from quantpress import gguf
from quantpress.allocation.allocate import GATE_CHUNKS, SEARCH_CHUNKS
from quantpress.allocation.measure import CONTEXT
from quantpress.check import labels
from quantpress.check.books import Books
from quantpress.convert import outline
from quantpress.errors import DiskFullError, InputError
from quantpress.evaluate import window_bytes
from quantpress.hub import Repository
from quantpress.inputs import Base, name_of
from quantpress.ledger import Ledger
from quantpress.measured import scratch_bytes
from quantpress.names import model_name, variant_file
from quantpress.progress import Progress
from quantpress.publish import publish
from quantpress.run import Run, Variant
from quantpress.sizes import human_size
from quantpress.upload import LocalFile, Uploader

__all__ = ["Stream"]

SPARE = 64 * 10**6  # bytes, for texts, books, pictures and pages


class Stream:
    """The way of a release's files to `user/name`, which is made if it is not there.

    Raises what Uploader raises, and InputError without a repository's name or where it may not be written to.
    """

    def __init__(self, repository: str | None, private: bool, progress: Progress) -> None:
        if repository is None:
            raise InputError(None, "stream", expected="--repository user/name to send the files to", found="none")
        self._uploader, self._private, self._scratch = Uploader(repository, progress), private, 0
        self._uploader.create(private=private)

    def ledger(self, path: Path) -> Ledger:
        """release.json, which keeps what the Hub has, too."""
        return Ledger(path, {name: file.sha256 for name, file in self._uploader.files().items()})

    @contextlib.contextmanager
    def base_to_be(self, run: Run, source: Path | Repository) -> Iterator[tuple[Base, int]]:
        """The float model, without its hashes, and what it will take of the disk.

        Before it is written, that is its header with a hole in place of its weights.
        """
        if isinstance(source, Path) and source.is_file():
            yield Base((source,), (), False), 0
            return
        folders, published = (run.folder, run.folder / "work"), "BF16" in run.settings.variants
        places = [variant_file(folder, name_of(source), "BF16") for folder in folders]
        known = [path for place in places for path in run.ledger.files_of(place)]
        found = sorted(path for path in known if not run.ledger.remote(path))
        if found and all(path.stat().st_size == run.ledger.bytes(path) for path in found):
            yield Base(tuple(found), (), published), 0
            return
        with tempfile.TemporaryDirectory(prefix="quantpress-", dir=run.folder / "work") as folder:
            path = outline(str(source), Path(folder) / places[0].name, remote=not isinstance(source, Path))
            yield Base((path,), (), published), path.stat().st_size

    def forecast(
        self, run: Run, base: Base, unwritten: int, sizes: Mapping[str, int], evaluation: Sequence[str | Path]
    ) -> None:
        """Tell how much of the disk will be used at most, and in how many rounds; raises DiskFullError.

        `base`, `unwritten`: of `base_to_be`; `sizes`: bytes by variant; `evaluation`: the given text, if there is one.
        Raises InputError for names and sizes that `check` would find wrong when it is too late.
        """
        _check_names(run, base, sizes)
        ledger, progress = run.ledger, run.machine["progress"]
        models = {name: ledger.files_of(run.file(base, name)) for name in sizes if name != "BF16" or not base.published}
        here = {name: [path for path in paths if not ledger.remote(path)] for name, paths in models.items()}
        costs = {name: 0 for name, paths in here.items() if paths}
        costs |= {name: sizes[name] for name, paths in models.items() if not paths}
        self._scratch = scratch_bytes(run, base, evaluation)
        fixed = unwritten + _imatrix_bytes(run, base) + SPARE
        free = shutil.disk_usage(run.folder).free
        room = free + sum(ledger.bytes(path) for paths in here.values() for path in paths)  # sent in the first round
        rounds = list(_rounds(costs, lambda: room - fixed - self._scratch))
        largest = max((sum(costs[name] for name in names) for names in rounds), default=0)
        search = _search_bytes(run, base)
        peak, needed = (fixed + max(search, self._scratch + one) for one in (largest, max(costs.values(), default=0)))
        words = f"{human_size(peak)} of {human_size(room)} free"
        sent = f"files to send: {len(costs)}, rounds: {len(rounds)}"
        progress.note(f"disk: at its peak {peak:,} bytes more than now ({words}); {sent}")
        if needed > room:
            raise DiskFullError(run.folder, needed, room)

    def rounds(self, run: Run, variants: Mapping[str, Variant]) -> Iterator[list[str]]:
        """The variants that are not on the Hub, in bunches that the disk has room for when their turn comes.

        First those that are here already, which makes room. After `forecast`.
        """
        here = {name: found.parts for name, found in variants.items() if found.parts}
        missing = {name: found.plan.bytes for name, found in variants.items() if not found.parts}
        costs = {name: 0 for name, parts in here.items() if not all(map(run.ledger.remote, parts))} | missing
        yield from _rounds(costs, lambda: shutil.disk_usage(run.folder).free - self._scratch - SPARE)

    def send(self, run: Run, base: Base, variants: Mapping[str, Variant]) -> None:
        """Send the files of variants, a commit each, and remove them here; the float model stays.

        Raises what `Uploader.upload` raises, and InputError for a file that is no longer what was measured.
        """
        for found in variants.values():
            for part in found.parts if found.parts != base.parts else ():
                if not run.ledger.remote(part):
                    self._send(run.ledger, part)

    def _send(self, ledger: Ledger, part: Path) -> None:
        file, expected = LocalFile(part), ledger.sha256(part)
        if file.sha256 != expected:
            hint = "It changed after it was measured. Run the same command again: it is made again"
            raise InputError(part, "SHA-256", expected=expected, found=file.sha256, hint=hint)
        self._uploader.upload({part.relative_to(ledger.folder).as_posix(): file})
        ledger.sent(part)
        if part.parent != ledger.folder and not any(part.parent.iterdir()):
            part.parent.rmdir()

    def publish(self, run: Run) -> None:
        """Send the rest: see `publish.publish`."""
        settings, progress = run.settings, run.machine["progress"]
        how: dict[str, Any] = {"private": self._private, "split_bytes": settings.split_bytes, "progress": progress}
        found = publish(run.folder, repository=settings.repository, **how)
        progress.note(f"published: {found.url}")


def _rounds(costs: Mapping[str, int], room: Callable[[], int]) -> Iterator[list[str]]:
    """The names in bunches of so many bytes as there is room for, which is asked again for each; one name at least."""
    left = list(costs)
    while left:
        free, count = room(), 1
        while count < len(left) and sum(costs[name] for name in left[: count + 1]) <= free:
            count += 1
        yield left[:count]
        del left[:count]


def _check_names(run: Run, base: Base, sizes: Mapping[str, int]) -> None:
    """Raise InputError for what `check` would say of the names, and of files larger than the Hub takes."""
    most, files = run.settings.split_bytes, {name: run.file(base, name).name for name in sizes}
    entries = {file: {"bytes": min(sizes[name], most), "sha256": ""} for name, file in files.items()}
    books = Books(run.folder, {}, entries, {"model": model_name(base.path)})
    errors = [one for one in labels.check(books, books.models) if one.severity == "error"]
    if errors:
        raise InputError(run.folder / errors[0].file, "name", found=errors[0].what, hint=errors[0].hint)


def _search_bytes(run: Run, base: Base) -> int:
    """Of the predictions that the search of an automatic plan and its gate are measured against."""
    if not run.settings.targets:
        return 0
    with gguf.read(base.path) as model:
        vocab = len(model.get("tokenizer.ggml.tokens", ()))
    return (SEARCH_CHUNKS + GATE_CHUNKS) * window_bytes(vocab, CONTEXT)


def _imatrix_bytes(run: Run, base: Base) -> int:
    """At most, of the importance matrix if there is none yet: a float32 a column of each matrix, and their names."""
    if run.ledger.files_of(run.file(base, "imatrix")):
        return 0
    with gguf.read(base.path) as model:
        weights = [tensor for tensor in model.tensors.values() if len(tensor.shape) > 1]
        return sum(4 * tensor.matrices * (tensor.cols + 1) + 384 for tensor in weights)
