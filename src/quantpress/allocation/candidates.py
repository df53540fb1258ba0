"""Which types each tensor of a model may have, what each weighs, and what the file weighs then. Header in, lists out.

Every matrix that recipes give a type to may have any of CANDIDATES whose block divides its rows, and its own type in
the source, which loses nothing and is always the last and largest. Types as large as that or larger gain nothing and
are left out; so is what the constraints forbid. Nothing is pinned, embedding and output included.

TQ1_0, TQ2_0, MXFP4, NVFP4, Q1_0 and Q2_0 are no candidates: they are made for models that were trained in them. A
tensor in such a type keeps it and, like all that recipes leave alone, belongs to no group.

Bytes are padded to the file's alignment, because that is what a tensor takes of the file. The header does not depend on
the types, so the size of a file is a constant plus the sum of what was chosen, to the byte: no search over sizes needs
to lay out a file.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from types import MappingProxyType

from quantpress import gguf
from quantpress.encoding import encoder_named
from quantpress.errors import PlanError
from quantpress.formats import TYPES, TensorType
from quantpress.gguf import GGUF, Tensor, TensorSpec
from quantpress.gguf.layout import alignment_of, padded
from quantpress.metadata import ImatrixInfo, quantized_metadata
from quantpress.plan import Extra
from quantpress.recipes import Role, quantizable
from quantpress.recipes.sites import role_of

__all__ = ["CANDIDATES", "FAMILIES", "Constraints", "Group", "bounds", "choices", "fixed_bytes"]

_NAMES = (
    "Q2_K Q3_K Q4_K Q5_K Q6_K Q8_0 Q4_0 Q4_1 Q5_0 Q5_1 IQ1_S IQ1_M IQ2_XXS IQ2_XS IQ2_S IQ3_XXS IQ3_S IQ4_NL IQ4_XS"
)
CANDIDATES = tuple(TYPES[name] for name in _NAMES.split())
_FLOATS = ("F16", "BF16", "F32")  # candidates where they are the source's
_KNOWN = (*(type.name for type in CANDIDATES), *_FLOATS)
FAMILIES = MappingProxyType(
    {
        "iq": frozenset(name for name in _KNOWN if name.startswith("IQ")),
        "k": frozenset(name for name in _KNOWN if name.endswith("_K")),
        "legacy": frozenset({"Q4_0", "Q4_1", "Q5_0", "Q5_1"}),  # Q8_0 is as old, but nothing has taken its place
    }
)
_LAYER = re.compile(r"^(.*\bblk\.\d+\.)?(.+)\.weight$")


@dataclass(frozen=True)
class Constraints:
    """What a choice of types must keep to.

    A PATTERN is a glob of a tensor's whole name (`blk.[0-3].ffn_*`), or the beginning of the name or of what follows a
    dot in it: `ffn_down` is also ffn_down_exps, `output` is not attn_output. Types and families in any case.

    avoid: `WHAT` or `PATTERN:WHAT`: a type, or a family of FAMILIES, never to use (for the tensors that match).
    floors: `PATTERN=TYPE`: at least that type's bits a weight; the source's own type is always enough.
    ties: parts of names (`attn_q`, the whole part) that share a type within a layer.
    uncovered: the floor of tensors that the importance matrix does not cover, embeddings and output excepted.

    Raises PlanError for an unknown type or family, and a part that is in two ties.
    """

    avoid: tuple[str, ...] = ()
    floors: tuple[str, ...] = ()
    ties: tuple[tuple[str, ...], ...] = ()
    uncovered: str = "Q4_K"

    def __post_init__(self) -> None:
        for text in self.avoid:
            _avoided(text)
        for text in self.floors:
            _floor(text)
        _known(self.uncovered, "least type of uncovered tensors")
        parts = [part for tie in self.ties for part in tie]
        twice = next((part for part in parts if parts.count(part) > 1), None)
        if twice is not None or any(len(tie) < 2 for tie in self.ties):
            expected = "two or more parts of names in each, and each part in one"
            raise PlanError(None, "ties", expected=expected, found=", ".join("+".join(tie) for tie in self.ties))

    @classmethod
    def parse(cls, *, avoid: str = "", floors: str = "", ties: str = "", uncovered: str = "Q4_K") -> Constraints:
        """From text, items at commas: `iq,ffn_down:Q2_K`, `token_embd=Q4_K,output=Q6_K`, `attn_q+attn_k`.

        Raises PlanError as the constructor.
        """
        tied = tuple(tuple(part.strip() for part in tie.split("+") if part.strip()) for tie in _items(ties))
        return cls(_items(avoid), _items(floors), tied, uncovered)


@dataclass(frozen=True)
class Group:
    """Tensors that share a type: those that they may have and the bytes of all of them together, padded, ascending."""

    names: tuple[str, ...]
    types: tuple[TensorType, ...]
    nbytes: tuple[int, ...]


def choices(
    model: GGUF,
    *,
    covered: Collection[str] | None,
    constraints: Constraints | None = None,
    encoder: str = "quantpress",
) -> list[Group]:
    """The groups of a model's tensors for which a type is to be chosen, in the file's order of their first tensors.

    Args:
        model: its header; no weight is read.
        covered: the tensors that the importance matrix covers; None without one, when no type that needs one is allowed
            and no floor of uncovered tensors holds. With one, llama.cpp's rule: embeddings and output never need it.
        constraints: default none but the floor of uncovered tensors.
        encoder: whose needs count as well: ggml's cannot encode some types at all without importance.

    Raises:
        PlanError: a pattern or a part of a tie that no tensor has; a tensor that the constraints leave no type; an
            unknown encoder.
    """
    limits = constraints or Constraints()
    encoder_named(encoder)  # raises for an unknown one
    names = [name for name, tensor in model.tensors.items() if _open(model, tensor)]
    _check_patterns(model, limits)
    tied: dict[tuple[str, ...], list[str]] = {}
    for name in names:
        tied.setdefault(_tie(name, limits), []).append(name)
    allowed = {name: _allowed(model.tensors[name], covered, limits, encoder) for name in names}
    return [_group(model, members, allowed) for members in tied.values()]


def fixed_bytes(model: GGUF, groups: Sequence[Group], *, imatrix: ImatrixInfo | None = None, extra: Extra = ()) -> int:
    """The bytes of a file without its groups: header and all other tensors. Add the chosen bytes for the file's size.

    `imatrix` and `extra` as in `plan`; llama.cpp's number for the file has no influence. Raises PlanError for an
    `extra` that changes the alignment.
    """
    metadata = quantized_metadata(model, 0, imatrix, extra)
    if alignment_of(None, metadata) != model.alignment:
        found = alignment_of(None, metadata)
        raise PlanError(model.path, "general.alignment", expected=f"the source's, {model.alignment}", found=found)
    specs = [TensorSpec(tensor.name, tensor.shape, tensor.type) for tensor in model.tensors.values()]
    chosen = {name for group in groups for name in group.names}
    grouped = sum(padded(spec.nbytes, model.alignment) for spec in specs if spec.name in chosen)
    return gguf.layout(metadata, specs).file_bytes - grouped


def bounds(groups: Iterable[Group], fixed: int = 0) -> tuple[int, int]:
    """The smallest and the largest file that the groups allow, in bytes; `fixed`: see `fixed_bytes`."""
    ends = [(group.nbytes[0], group.nbytes[-1]) for group in groups]
    return fixed + sum(low for low, _ in ends), fixed + sum(high for _, high in ends)


def _open(model: GGUF, tensor: Tensor) -> bool:
    """Whether a type is to be chosen for the tensor."""
    return _matrix(model, tensor) and tensor.type.encodable and not tensor.type.trained


def _matrix(model: GGUF, tensor: Tensor) -> bool:
    return quantizable(tensor.name, tensor.shape, str(model.get("general.architecture")))


def _group(model: GGUF, members: Sequence[str], allowed: Mapping[str, list[TensorType]]) -> Group:
    types = [type for type in allowed[members[0]] if all(type in allowed[name] for name in members[1:])]
    if not types:
        each = "; ".join(f"{name}: {', '.join(type.name for type in allowed[name]) or 'none'}" for name in members)
        expected = "a type that the constraints leave" + (" to all that are tied" if len(members) > 1 else "")
        hint = "Avoid fewer types"
        raise PlanError(model.path, f"tensor {members[0]}", expected=expected, found=each, hint=hint)
    shapes = [model.tensors[name].shape for name in members]
    sizes = [sum(padded(TensorSpec("", shape, type).nbytes, model.alignment) for shape in shapes) for type in types]
    order = sorted(range(len(types)), key=sizes.__getitem__)  # stable
    return Group(tuple(members), tuple(types[at] for at in order), tuple(sizes[at] for at in order))


def _allowed(tensor: Tensor, covered: Collection[str] | None, limits: Constraints, encoder: str) -> list[TensorType]:
    """The types that one tensor may have, its own at the end."""
    own, bare = tensor.type, covered is None or tensor.name not in covered
    embedding = role_of(tensor.name) in (Role.EMBEDDING, Role.OUTPUT)
    floors = [type for pattern, type in map(_floor, limits.floors) if _matches(pattern, tensor.name)]
    if covered is not None and bare and not embedding:
        floors.append(_known(limits.uncovered, "least type of uncovered tensors"))
    least = max((type.bits_per_weight for type in floors), default=0.0)
    rules = map(_avoided, limits.avoid)
    avoided = {name for pattern, names in rules if pattern is None or _matches(pattern, tensor.name) for name in names}
    found = [
        type
        for type in CANDIDATES
        if least <= type.bits_per_weight < own.bits_per_weight
        and tensor.cols % type.block == 0
        and not (bare and _needs(type, encoder, strict=covered is None or not embedding))
    ]
    return [type for type in (*found, own) if type.name not in avoided]


def _needs(type: TensorType, encoder: str, *, strict: bool) -> bool:
    """Whether a tensor without importance cannot have the type; `strict`: llama.cpp's rule holds for the tensor."""
    return type.needs_imatrix and (strict or encoder_named(encoder).requires_importance(type))


def _tie(name: str, limits: Constraints) -> tuple[str, ...]:
    """A key that is the same for tensors that share a type."""
    layer, part = _layer_and_part(name)
    tie = next((tie for tie in limits.ties if part in tie), None)
    return (name,) if tie is None else (layer, *tie)


def _layer_and_part(name: str) -> tuple[str, str]:
    """`blk.0.` and `attn_q` of blk.0.attn_q.weight."""
    found = _LAYER.match(name)
    return (found[1] or "", found[2]) if found else ("", name)


def _matches(pattern: str, name: str) -> bool:
    if any(sign in pattern for sign in "*?["):
        return fnmatchcase(name, pattern)
    return f".{pattern}" in f".{name}"


def _check_patterns(model: GGUF, limits: Constraints) -> None:
    """Raise PlanError for a pattern, or a part of a tie, that no matrix has; lists the parts that there are."""
    names = [name for name, tensor in model.tensors.items() if _matrix(model, tensor)]
    parts = sorted({_layer_and_part(name)[1] for name in names})
    asked = [("avoid", text, _avoided(text)[0]) for text in limits.avoid]
    asked += [("floor", text, _floor(text)[0]) for text in limits.floors]
    lost = [f"{kind} {text}" for kind, text, pattern in asked if pattern is not None and not _any(pattern, names)]
    lost += [f"tie {'+'.join(tie)}: {part}" for tie in limits.ties for part in tie if part not in parts]
    if lost:
        expected = f"a tensor that can be quantized: a glob, or one of {', '.join(parts)}"
        raise PlanError(model.path, lost[0], expected=expected, found="no match")


def _any(pattern: str, names: Iterable[str]) -> bool:
    return any(_matches(pattern, name) for name in names)


def _avoided(text: str) -> tuple[str | None, frozenset[str]]:
    """The pattern (None: every tensor) and the names of types of an entry of `avoid`."""
    pattern, colon, what = text.rpartition(":")
    family = FAMILIES.get(what.strip().lower())
    names = family or frozenset({_known(what, f"avoid {text}", FAMILIES).name})
    if colon and not pattern.strip():
        raise PlanError(None, f"avoid {text}", expected="TYPE or PATTERN:TYPE", found="no pattern")
    return (pattern.strip() if colon else None), names


def _floor(text: str) -> tuple[str, TensorType]:
    pattern, equals, type = text.partition("=")
    if not pattern.strip() or not equals:
        raise PlanError(None, f"floor {text}", expected="PATTERN=TYPE", found=text)
    return pattern.strip(), _known(type, f"floor {text}")


def _known(name: str, field: str, more: Iterable[str] = ()) -> TensorType:
    if name.strip().upper() not in _KNOWN:
        raise PlanError(None, field, expected=f"one of {', '.join((*more, *_KNOWN))}", found=name.strip() or "nothing")
    return TYPES[name.strip().upper()]


def _items(text: str) -> tuple[str, ...]:
    return tuple(item.strip() for item in text.split(",") if item.strip())
