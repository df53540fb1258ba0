"""The weights of a loaded model, changed in place: what a quantized file computes, without the file and its loading.

llama.cpp reads a weight's type and strides from its `struct ggml_tensor` whenever it makes a graph, and a quantized
encoding takes no more room than the float one that it replaces. So we write the encoded rows over the weight's data and
its type into the struct, and have a new context made, whose graphs are those of the quantized file: logits are equal
bit for bit, since the same kernels see the same bytes. The obvious alternative, float weights replaced by what their
encoding decodes to, is not: llama.cpp rounds the activations that meet a quantized weight, and would not there.

Where the structs are: weights.py. The memory is ours to write because the session has loaded the model unmapped
(`Settings.resident`).

Encodings that leave the weights are kept, up to CACHE_BYTES, those that left longest ago going first: swapping back and
forth costs two copies. Beside that, memory is bounded by tiles: each is encoded and goes straight to its place.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

from quantpress import gguf
from quantpress.arrays import Bytes
from quantpress.encoding import PLAIN, check_encodable, encode_tile, encoder_named, tiles_of
from quantpress.engine.session import Session
from quantpress.engine.tensor import writable_library
from quantpress.engine.weights import memory, obstacle, weight_structs
from quantpress.errors import EngineError, PlanError
from quantpress.formats import TensorType, tensor_type
from quantpress.gguf import Tensor
from quantpress.imatrix import Imatrix, covered
from quantpress.plan import check, needing_importance
from quantpress.statistics import Statistics, moments_for, open_statistics
from quantpress.tiles import RowReader, cuts, in_threads

__all__ = ["CACHE_BYTES", "assign", "put"]

CACHE_BYTES = 1 << 30
_HALF_CHANGED = (
    "the model's weights are half changed, because the last assign failed: assign types again (none: the float model)"
)


_File = tuple[str, int, int]  # path, time of change, bytes


@dataclass(frozen=True, slots=True)
class _Encoding:
    """Which bytes a tensor has; of its type in the file: those of the file, and nothing else is told."""

    type: TensorType
    encoder: str = ""
    effort: str = ""
    statistics: tuple[_File, ...] = ()  # imatrix and moments


def assign(
    session: Session,
    types: Mapping[str, str],
    imatrix: str | None,
    encoder: str,
    effort: str,
    moments: str | None,
    plain: Sequence[str],
) -> Iterator[None]:
    """Make the weights those of the file that `quantize` writes for these types and the same statistics of inputs.

    `types`: tensor to name of a type; a tensor that is not named becomes what it is in the model's file. Only what
    differs from the present state is encoded and copied. `plain`: tensors that are encoded without moments.
    Yields nothing.

    Raises PlanError, ImatrixError, GGUFError for what `quantize` refuses, and EngineError for a tensor that cannot be
    changed in llama.cpp's memory; nothing is changed by then. InputError for a weight that is NaN or too large, found
    while encoding: from there on the session computes nothing until another `assign` succeeds.
    """
    _resident(session).assign(types, imatrix, encoder, effort, moments, frozenset(plain))
    yield from ()


def put(session: Session, name: str, data: Bytes) -> Iterator[None]:
    """Write other rows over a tensor's, uint8 [rows, bytes of a row] in the type that it has in the model's file.

    Yields nothing. Raises EngineError for a tensor that cannot be changed in llama.cpp's memory, or other bytes.
    """
    _resident(session).put(name, data)
    yield from ()


class _Resident:
    """A session's weights: where they are, what they are, and what they have been."""

    def __init__(self, session: Session) -> None:
        if not session.settings.resident:
            raise EngineError("the weights are a map of the file and cannot be changed: open the engine with resident")
        library = writable_library()
        self.session = session
        self.files = ExitStack()
        with gguf.read(session.settings.model) as source:
            self.source = source  # its header: data is read, not mapped
        self.reader = self.files.enter_context(RowReader(source))  # for as long as the process lives
        self.structs = weight_structs(session, source.tensors)
        self.obstacles = {
            name: obstacle(library, tensor, self.structs[name]) for name, tensor in source.tensors.items()
        }
        self.present: dict[str, _Encoding | None] = {
            name: _Encoding(tensor.type) for name, tensor in source.tensors.items()
        }  # None: a mixture, left by an assign that failed
        self.cache = _Cache(CACHE_BYTES)
        self.statistics: tuple[tuple[_File, ...], Statistics] = (), Statistics(source, None)
        self.opened = ExitStack()

    def assign(
        self,
        types: Mapping[str, str],
        imatrix: str | None,
        encoder: str,
        effort: str,
        moments: str | None = None,
        plain: Collection[str] = (),
    ) -> None:
        """See the function of that name."""
        encoder_named(encoder, effort)
        key, statistics = self._statistics(imatrix, effort, moments)
        wanted = {name: tensor.type for name, tensor in self.source.tensors.items()}
        wanted |= {name: tensor_type(type) for name, type in types.items()}
        self._check_plan(wanted, statistics.imatrix, encoder)
        changes = {}
        for name, type in wanted.items():
            own = type is self.source.tensors[name].type
            how = PLAIN if name in plain else effort
            target = _Encoding(type) if own else _Encoding(type, encoder, how, key)
            if self.present[name] != target and self.structs[name]:  # what no graph uses changes no number
                self._check_room(name, type)
                changes[name] = target
        if changes:
            self.session.close()
            self.session.refusal = _HALF_CHANGED
            self._write(changes, statistics)
        self.session.refusal = None

    def put(self, name: str, data: Bytes) -> None:
        """See the function of that name."""
        tensor = self.source.tensors[name]
        self._check_room(name, tensor.type)
        if data.nbytes != tensor.nbytes or self.present[name] not in (None, _Encoding(tensor.type)):
            expected, now = f"{tensor.nbytes:,} bytes of {tensor.type.name}, as in the file", self.present[name]
            found = f"{data.nbytes:,} bytes, for what is {now.type.name if now else tensor.type.name} in memory"
            raise EngineError(f"tensor {name}: expected {expected}, found {found}")
        self.present[name] = None  # so that the next `assign` restores it
        self._put(name, 0, data)

    def _statistics(
        self, imatrix: str | None, effort: str, moments: str | None
    ) -> tuple[tuple[_File, ...], Statistics]:
        """What is known of the model's inputs, and what tells it from other files; read once."""
        second = moments_for(effort, imatrix, moments)
        key = tuple(_file(str(path)) for path in (imatrix, second) if path is not None)
        if key != self.statistics[0]:
            self.statistics = (), Statistics(self.source, None)
            self.opened.close()
            self.statistics = key, self.opened.enter_context(open_statistics(self.source, imatrix, effort, moments))
        return self.statistics

    def _check_plan(self, wanted: Mapping[str, TensorType], importance: Imatrix | None, encoder: str) -> None:
        """Raise PlanError where `quantize` would."""
        source, with_one = self.source, covered(importance, self.source) if importance is not None else ()
        check(source, wanted, source.path)
        bare = needing_importance(wanted, with_one)
        needing = encoder_named(encoder).requires_importance
        for name, type in wanted.items():
            found = source.tensors[name].type
            if type is found:
                continue
            check_encodable([type], encoder, name)
            where, hint = f"tensor {name}", f"Leave it in {found.name}"
            if found.quantized:
                raise PlanError(source.path, where, expected="a float type", found=found.name, hint=hint)
            if name in bare or (type.needs_imatrix and name not in with_one and needing(type)):
                expected = f"an importance matrix that covers it, for {type.name}"
                raise PlanError(source.path, where, expected=expected, found="none", hint="Choose another type")

    def _check_room(self, name: str, type: TensorType) -> None:
        """Raise EngineError where the tensor cannot be given that type in memory."""
        tensor = self.source.tensors[name]
        if (obstacle := self.obstacles[name]) is not None:
            raise EngineError(f"tensor {name}: {obstacle}")
        needed = tensor.rows * type.row_bytes(tensor.cols)
        if needed > tensor.nbytes:
            raise EngineError(
                f"tensor {name}: {type.name} takes {needed:,} bytes, its memory in {tensor.type.name} has "
                f"{tensor.nbytes:,}. Leave it in {tensor.type.name}, or convert the model with a larger type"
            )

    def _write(self, changes: Mapping[str, _Encoding], statistics: Statistics) -> None:
        """From the cache, or encoded; no graph is at hand that knows the types of before."""
        encoded = []
        for name, target in changes.items():
            found = self.cache.take((name, target))
            self._keep(name)
            self.present[name] = None
            for struct in self.structs[name]:
                struct.retype(target.type)
            if found is None:
                encoded.append(name)
                continue
            self._put(name, 0, found)
            self.present[name] = target
        jobs = (job for name in encoded for job in self._jobs(name, changes[name], statistics))
        with closing(in_threads(jobs, self.session.settings.threads)) as done:
            for _ in done:
                pass  # every tile is in its place
        self.present.update({name: changes[name] for name in encoded})

    def _keep(self, name: str) -> None:
        """Cache the encoding that is in memory; the file has its own."""
        tensor, now = self.source.tensors[name], self.present[name]
        if now is not None and now.type is not tensor.type:
            bytes = tensor.rows * now.type.row_bytes(tensor.cols)
            self.cache.put((name, now), memory(self.structs[name][0], 0, bytes))

    def _jobs(self, name: str, target: _Encoding, statistics: Statistics) -> Iterator[partial[None]]:
        tensor = self.source.tensors[name]
        for start, stop in cuts(tensor):
            yield partial(self._tile, tensor, target, start, stop, statistics)

    def _tile(self, tensor: Tensor, target: _Encoding, start: int, stop: int, statistics: Statistics) -> None:
        """Rows from the file to their place in memory."""
        data = self.reader.read(tensor, start, stop)
        if target.type is not tensor.type:
            with tiles_of(self.source.path):
                tile = statistics.tile(tensor, start, data, (target.type,))
                (data,) = encode_tile(tile, target.encoder, target.effort)
        self._put(tensor.name, start * target.type.row_bytes(tensor.cols), data)

    def _put(self, name: str, offset: int, data: Bytes) -> None:
        for struct in self.structs[name]:
            memory(struct, offset, data.nbytes)[:] = data.reshape(-1)


def _file(path: str) -> _File:
    """What tells a file from others; of one that is missing, that it is: whoever reads it says what is wrong."""
    try:
        about = Path(path).stat()
    except OSError:
        return path, 0, 0
    return str(Path(path).resolve()), about.st_mtime_ns, about.st_size


_resident = lru_cache(maxsize=1)(_Resident)  # the child has one session


class _Cache:
    """Encodings that are in the model no more; those put in longest ago make room for others."""

    def __init__(self, limit: int) -> None:
        self.limit, self.bytes = limit, 0
        self.entries: OrderedDict[tuple[str, _Encoding], Bytes] = OrderedDict()

    def put(self, key: tuple[str, _Encoding], data: Bytes) -> None:
        """Copy it in, unless it alone is too large."""
        if data.nbytes > self.limit:
            return
        while self.bytes + data.nbytes > self.limit:
            self.bytes -= self.entries.popitem(last=False)[1].nbytes
        self.entries[key] = data.copy()
        self.bytes += data.nbytes

    def take(self, key: tuple[str, _Encoding]) -> Bytes | None:
        """Take it out, if it is there."""
        found = self.entries.pop(key, None)
        self.bytes -= 0 if found is None else found.nbytes
        return found
