"""Which file of a release to take: the best that fits into the memory there is, and the command that runs it.

    offers in order of preference → the first that fits → where its layers go → command

Quality, the default: the lowest measured divergence; of a release that nobody measured, the most bits a weight. Speed:
with a GPU, the best of those that fit on it wholly. Without one, or where none does: the fastest of those whose
divergence is at most SPEED_KLD nats (not measured: that have at least SPEED_BITS bits a weight), by measured tokens a
second, else the smallest; where none of those fits, the best.

What a file needs is its weights and llama.cpp's own numbers for cache and compute buffers, which depend on the model
and not on the types of its weights: so one simulation is enough for files of the same shapes, and one header, mostly,
of a repository. A file whose size alone says that it cannot fit is not looked at; the header of the one that is taken
is, and everything said about it is exact. llama.cpp could fit layers itself (`--fit`), but only when it is there, and
the file: the question here is which to fetch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from quantpress.available import Memory, available_memory
from quantpress.choose.launch import commands
from quantpress.choose.offload import GPU_RESERVE, RESERVE, Placement, Weights, place, weights_of
from quantpress.choose.shelf import Offer, Shelf, shelf
from quantpress.engine.buffers import Buffers
from quantpress.errors import InputError
from quantpress.gguf import GGUF
from quantpress.memory import Footprint, buffers
from quantpress.sizes import human_size

__all__ = ["CONTEXT", "PREFERENCES", "SPEED_BITS", "SPEED_KLD", "Choice", "Neighbour", "Side", "choose"]

CONTEXT = 16384
PREFERENCES = ("quality", "speed")
SPEED_KLD = 0.05
SPEED_BITS = 4.5
_LEAST_CONTEXT = 256
_ALL_LAYERS = 99  # what people write for all


@dataclass(frozen=True)
class Neighbour:
    """The next larger or smaller file: about how many bytes it needs, with reserves, and whether that is there."""

    file: str
    bytes: int
    kld_mean: float | None
    speed: float | None
    needed: int
    fits: bool


@dataclass(frozen=True)
class Side:
    """Memory, or that of a GPU: its `size` in bytes, who says so, what is needed of it with `reserve`, what is left."""

    size: int
    source: str
    needed: int
    reserve: int
    left: int


@dataclass(frozen=True)
class Choice:
    """The file to take, why, and how to run it.

    `footprint` is what llama.cpp takes in all, with the compute buffers of one side. `gpu` is None where there is none,
    `gpu_layers` is for `-ngl`, `layers` how many layers there are, the output included. `commands` are lists of words.
    """

    release: str
    file: str
    bytes: int
    bits_per_weight: float
    kld_mean: float | None
    kld_error: float | None
    speed: float | None
    prefer: str
    why: str
    footprint: Footprint
    memory: Side
    gpu: Side | None
    gpu_layers: int
    layers: int
    larger: Neighbour | None
    smaller: Neighbour | None
    commands: dict[str, list[str]]
    notes: list[str]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def choose(
    release: str | Path,
    *,
    memory: int | None = None,
    gpu: int = 0,
    context: int | None = None,
    cache_type: str = "F16",
    prefer: str = "quality",
) -> Choice:
    """The file of a release to take.

    Args:
        release: a release folder, a folder of GGUF files, one such file, or `user/name[@revision]` on the Hub.
        memory: bytes that may be taken, default what this machine has available.
        gpu: bytes of a GPU that may be taken.
        context: tokens; default 16,384, or as many as the model was trained on if that is less.
        cache_type: of keys and values, one of memory.CACHE_TYPES, in any case.
        prefer: `quality` or `speed`.

    Raises InputError where nothing fits, for a context beyond the model's, for what is no release and what `shelf` and
    `memory.buffers` raise.
    """
    if prefer not in PREFERENCES:
        raise InputError(None, "prefer", expected=" or ".join(PREFERENCES), found=repr(prefer))
    if gpu < 0 or (memory is not None and memory < 1):
        raise InputError(None, "memory", expected="a number of bytes", found=gpu if gpu < 0 else memory)
    room = available_memory() if memory is None else Memory(memory, "as given")
    source = shelf(release)
    sizer = _Sizer(source, room.bytes, gpu, context, cache_type)
    found = _pick(sizer, prefer)
    if found is None:
        raise _nothing_fits(sizer)
    return _described(sizer, found, room, prefer)


@dataclass(frozen=True)
class _Facts:
    """What the header of an offered file says, and llama.cpp's numbers for it."""

    offer: Offer
    model: GGUF
    weights: Weights
    buffers: Buffers
    context: int


class _Sizer:
    """What files need and whether that is there; each header is read and each simulation made once, when it is needed.

    `reference` is the file whose header tells how much others need at least.
    """

    def __init__(self, source: Shelf, memory: int, gpu: int, context: int | None, cache_type: str) -> None:
        self.source, self.memory, self.gpu, self.cache_type = source, memory, gpu, cache_type
        self.asked, self.facts, self.refused = context, dict[str, _Facts](), set[str]()
        self._simulated: dict[str, Buffers] = {}
        likely = [offer for offer in source.offers if offer.bytes <= memory + gpu]
        self.reference = self.look(max(likely, key=_size) if likely else min(source.offers, key=_size))

    def look(self, offer: Offer) -> _Facts:
        """What the header of a file says."""
        if offer.file not in self.facts:
            model = self.source.header(offer)
            context = _context(model, self.asked)
            self.facts[offer.file] = _Facts(offer, model, weights_of(model), self.buffers(model, context), context)
        return self.facts[offer.file]

    def buffers(self, model: GGUF, context: int) -> Buffers:
        """llama.cpp's numbers for a model of these shapes and settings."""
        prefix = f"{model.get('general.architecture')}."
        settings = {name: str(value) for name, value in model.metadata.items() if name.startswith(prefix)}
        shapes = [(tensor.name, tensor.shape) for tensor in model.tensors.values()]
        key = repr((context, prefix, settings, shapes))
        if key not in self._simulated:
            self._simulated[key] = buffers(model, context=context, cache_type=self.cache_type, outputs=1)
        return self._simulated[key]

    def may_fit(self, offer: Offer, whole: bool = False, *, bare: bool = False) -> bool:
        """Whether its size alone, beside the reference's header, allows a file to fit.

        `whole`: on the GPU; `bare`: without cache and compute buffers.
        """
        weights, found = self.reference.weights, self.reference.buffers
        header = self.reference.offer.bytes - weights.total
        least = offer.bytes - 2 * header - found.unused + (0 if bare else found.cache + found.compute)
        if not whole:
            return least <= self.memory - RESERVE + max(0, self.gpu - GPU_RESERVE)
        widest = 4 if offer.bytes > 3 * weights.count else 2  # bytes of an embedded weight in an F32 file, and others
        return least - widest * weights.never_offloaded <= self.gpu - GPU_RESERVE

    def fit(self, offer: Offer) -> Placement | None:
        """With the most layers on the GPU that go there, if then the rest goes into memory."""
        facts = self.look(offer)
        for layers in range(len(facts.weights.blocks) + 1 if self.gpu else 0, -1, -1):
            placed = place(facts.weights, facts.buffers, layers)
            if self.has_room(placed):
                return placed
        self.refused.add(offer.file)
        return None

    def has_room(self, placed: Placement) -> bool:
        """Whether both sides have what goes there, and the reserves."""
        on_gpu = placed.layers == 0 or placed.gpu + GPU_RESERVE <= self.gpu
        return on_gpu and placed.memory + RESERVE <= self.memory


def _context(model: GGUF, asked: int | None) -> int:
    most = model.get(f"{model.get('general.architecture')}.context_length")
    if asked is None:
        return min(CONTEXT, most or CONTEXT)
    if most and asked > most:
        expected = f"at most {most:,} tokens, which the model was trained on"
        raise InputError(model.path, "context", expected=expected, found=f"{asked:,}")
    return asked


def _size(offer: Offer) -> int:
    return offer.bytes


def _pick(sizer: _Sizer, prefer: str) -> tuple[Offer, Placement, str] | None:
    """The choice, where it goes and the rule that made it, in words; None where nothing fits."""
    offers, measured = sizer.source.offers, sizer.source.measured
    best = sorted(offers, key=lambda one: (-one.bytes if one.kld_mean is None else one.kld_mean, one.bytes, one.file))
    what = "the lowest divergence" if measured else "the most bits a weight"
    if len(offers) == 1:
        return _first(sizer, offers, "it is the only file")
    if prefer == "quality":
        return _first(sizer, best, f"it has {what} of the files that fit")
    if sizer.gpu and (found := _first(sizer, best, f"it has {what} of the files that fit on the GPU wholly", True)):
        return found
    close = [one for one in offers if _close(one, sizer.reference.weights.count)]
    timed = all(one.speed is not None for one in close)
    close.sort(key=lambda one: (-(one.speed or 0) if timed else one.bytes, one.bytes, one.file))
    bound = f"a divergence of at most {SPEED_KLD} nats" if measured else f"at least {SPEED_BITS} bits a weight"
    rule = f"it is the {'fastest' if timed else 'smallest'} of the files that fit and have {bound}"
    none = f"no file that fits has {bound}, and it has {what} of them"
    return _first(sizer, close, rule) or _first(sizer, best, none)


def _close(offer: Offer, weights: int) -> bool:
    """Whether a file is close enough to the original to be taken for its speed."""
    return 8 * offer.bytes >= SPEED_BITS * weights if offer.kld_mean is None else offer.kld_mean <= SPEED_KLD


def _first(
    sizer: _Sizer, order: Sequence[Offer], rule: str, whole: bool = False
) -> tuple[Offer, Placement, str] | None:
    for offer in order:
        if sizer.may_fit(offer, whole) and (placed := sizer.fit(offer)) and (placed.whole or not whole):
            return offer, placed, rule
    return None


def _nothing_fits(sizer: _Sizer) -> InputError:
    """How much the smallest file needs, and the longest context of a half, a quarter, … with which it would fit."""
    smallest = min(sizer.source.offers, key=_size)
    facts = sizer.look(smallest)
    needed = place(facts.weights, facts.buffers, 0).memory + RESERVE
    expected = f"at least {_precise(needed)} for the smallest file, {smallest.file}, at {facts.context:,} tokens"
    found = human_size(sizer.memory) + (f" and {human_size(sizer.gpu)} of a GPU" if sizer.gpu else "")
    context, hint = facts.context // 2, "No shorter context makes it fit"
    if not sizer.may_fit(smallest, bare=True):
        context, hint = 0, "Its weights alone are more than that"
    while context >= _LEAST_CONTEXT:
        sizer.facts[smallest.file] = replace(facts, buffers=sizer.buffers(facts.model, context))
        if sizer.fit(smallest):
            hint = f"With --context {context} it fits"
            break
        context //= 2
    return InputError(sizer.source.name, "memory", expected=expected, found=found, hint=hint)


def _precise(size: int) -> str:
    return f"{human_size(size)} ({size:,} bytes)"


def _described(sizer: _Sizer, found: tuple[Offer, Placement, str], room: Memory, prefer: str) -> Choice:
    offer, placed, rule = found
    facts = sizer.look(offer)
    taken = Footprint(
        facts.weights.total - facts.buffers.unused,
        facts.buffers.cache,
        facts.buffers.compute,
        facts.buffers.output,
        facts.context,
        sizer.cache_type.upper(),
    )
    memory = _side(room.bytes, room.source, placed.memory, RESERVE)
    gpu = _side(sizer.gpu, "as given", placed.gpu, GPU_RESERVE if placed.layers else 0) if sizer.gpu else None
    layers = max(_ALL_LAYERS, placed.layers) if placed.whole else placed.layers
    larger, smaller = _neighbours(sizer, offer, memory.needed + (gpu.needed if gpu else 0))
    return Choice(
        release=sizer.source.name,
        file=offer.file,
        bytes=offer.bytes,
        bits_per_weight=facts.weights.bits,
        kld_mean=offer.kld_mean,
        kld_error=offer.kld_error,
        speed=offer.speed,
        prefer=prefer,
        why=_why(sizer, placed, rule),
        footprint=taken,
        memory=memory,
        gpu=gpu,
        gpu_layers=layers,
        layers=placed.blocks + 1,
        larger=larger,
        smaller=smaller,
        commands=commands(sizer.source, offer, taken, gpu_layers=layers, left=memory.left),
        notes=_notes(sizer),
    )


def _side(size: int, source: str, taken: int, reserve: int) -> Side:
    return Side(size, source, taken + reserve, reserve, size - taken - reserve)


def _why(sizer: _Sizer, placed: Placement, rule: str) -> str:
    text = rule if sizer.source.measured else f"{rule}; nothing was measured"
    if not sizer.gpu:
        return f"{text[0].upper()}{text[1:]}."
    where = f"{placed.layers} of {placed.blocks + 1} layers go on the GPU, the others stay in memory"
    if placed.whole:
        where = "All of it goes on the GPU"
    elif placed.layers == 0:
        where = "The GPU has no room for a layer beside its buffers"
    return f"{text[0].upper()}{text[1:]}. {where}."


def _notes(sizer: _Sizer) -> list[str]:
    """What is assumed."""
    offers = sizer.source.offers
    notes = [f"{human_size(RESERVE)} of memory are reserved for the process itself"]
    if sizer.gpu:
        notes[0] += f", {human_size(GPU_RESERVE)} of the GPU for its context and for others"
    if unread := len(offers) - len(sizer.facts):
        notes.append(f"{unread} of {len(offers)} files were judged by their size, as files of the same model")
    if any(offer.speed is not None for offer in offers):
        machine = sizer.source.machine or "another machine"
        notes.append(f"speed was measured on {machine}; yours may order the files otherwise")
    notes.append("for one conversation at a time; llama-server's defaults take more memory than was counted")
    return notes


def _neighbours(sizer: _Sizer, chosen: Offer, needed: int) -> tuple[Neighbour | None, Neighbour | None]:
    """The next larger and the next smaller file; what they need is told from the difference of the sizes."""

    def described(one: Offer | None) -> Neighbour | None:
        if one is None:
            return None
        about = needed + one.bytes - chosen.bytes
        fits = about <= sizer.memory + sizer.gpu and one.file not in sizer.refused
        return Neighbour(one.file, one.bytes, one.kld_mean, one.speed, about, fits)

    larger = min((one for one in sizer.source.offers if one.bytes > chosen.bytes), key=_size, default=None)
    smaller = max((one for one in sizer.source.offers if one.bytes < chosen.bytes), key=_size, default=None)
    return described(larger), described(smaller)
