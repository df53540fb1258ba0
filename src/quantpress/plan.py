"""Which type each tensor of a model gets, and how large the file will be: recipe and header in, plan out.

Nothing is quantized. The size is exact because the header's bytes follow from the metadata that `quantize` writes and
the data's from shapes and types. Bits a weight are 8 × bytes of tensor data ÷ weights, over all tensors and without
header and padding: what `llama-quantize` prints as BPW.

A plan is also a file: `plan.json` (`to_json`, `from_json`), tied to names and shapes of its model's tensors, and a
tensor-type file for `llama-quantize` (`to_tensor_types`; read back with `plan(…, tensor_types=…)`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from quantpress import gguf, tensor_types
from quantpress.errors import PlanError
from quantpress.files import write_text
from quantpress.formats import TYPES, TensorType, fitting_type, tensor_type
from quantpress.gguf import GGUF, TensorSpec, Value
from quantpress.metadata import ImatrixInfo, quantized_metadata
from quantpress.progress import SILENT, Progress
from quantpress.recipes import MIXES, Recipe, choose, quantizable, sites
from quantpress.recipes import recipe as recipe_named
from quantpress.recipes.ranking import ffn_ranks

__all__ = ["Plan", "assign", "check", "from_json", "from_types", "missing_importance", "plan", "read_plan"]

VERSION = 1
Extra = Mapping[str, Value] | Iterable[tuple[str, Value]]
_NO_IMPORTANCE = ("token_embd.weight", "per_layer_token_embd.weight", "output.weight")  # never needed for these


@dataclass(frozen=True)
class Plan:
    """Tensor to name of a type for one model; `tensors` has every tensor of the model in the file's order."""

    recipe: str
    file_type: int  # llama.cpp's number, general.file_type
    model: str  # general.name, or the file's
    digest: str  # of the names and shapes of the model's tensors
    tensors: dict[str, str]
    matrices: tuple[str, ...]  # the tensors that a recipe gives a type to
    fallbacks: dict[str, str]  # tensor to the type that its rows were too uneven for
    imatrix: ImatrixInfo | None
    weights: int
    tensor_bytes: int
    bytes: int  # of the file, to the byte
    plain: tuple[str, ...] = ()  # tensors that compensated encoding is of no use for

    @property
    def bits_per_weight(self) -> float:
        """8 × bytes of tensor data ÷ weights."""
        return 8 * self.tensor_bytes / self.weights

    @property
    def types(self) -> dict[str, TensorType]:
        """`tensors` with the types themselves."""
        return {name: TYPES[type] for name, type in self.tensors.items()}

    def to_dict(self) -> dict[str, Any]:
        """What `plan.json` holds: `bytes`, `bits_per_weight`, `tensors` (name to type) and what else the plan knows."""
        return {
            "version": VERSION,
            "recipe": self.recipe,
            "file_type": self.file_type,
            "model": {"name": self.model, "digest": self.digest},
            "imatrix": asdict(self.imatrix) if self.imatrix else None,
            "bytes": self.bytes,
            "tensor_bytes": self.tensor_bytes,
            "weights": self.weights,
            "bits_per_weight": self.bits_per_weight,
            "fallbacks": self.fallbacks,
            "tensors": self.tensors,
            "plain": list(self.plain),
        }

    def to_json(self) -> str:
        """The text of `plan.json`."""
        return json.dumps(self.to_dict(), indent=1, ensure_ascii=False) + "\n"

    def to_tensor_types(self) -> str:
        """The text for `llama-quantize --tensor-type-file`, to be used with the mix of this plan's file type.

        llama-quantize asks it only for the matrices that it quantizes and only if that mix is of a quantized type, so
        the text names those and is empty for a plan in F32, F16 or BF16. `--token-embedding-type` and
        `--output-tensor-type` would win over it.
        """
        if not _quantized(self.file_type):
            return ""
        return tensor_types.to_text({name: TYPES[self.tensors[name]] for name in self.matrices})

    def write(self, path: str | Path) -> None:
        """Write `plan.json` and, beside it, `plan.tensor_types.txt`; raises OutputError."""
        path = Path(path)
        write_text(path, self.to_json())
        write_text(path.with_suffix(".tensor_types.txt"), self.to_tensor_types())


def plan(
    model: str | Path | GGUF,
    *,
    type: str | Recipe,
    imatrix: str | Path | ImatrixInfo | None = None,
    tensor_types: str | Path | None = None,
    extra: Extra = (),
    progress: Progress = SILENT,
) -> Plan:
    """Plan the file that `quantize` makes of a model with a recipe.

    `type` is a recipe or its name; `imatrix` an importance matrix (some mixes choose otherwise with one);
    `tensor_types` a file as for `llama-quantize --tensor-type-file`, which overrides the recipe; `extra` metadata that
    will be added, as in `quantized_metadata`. Only MP reads weights. Raises PlanError, GGUFError, ImatrixError.
    """
    if not isinstance(model, GGUF):
        with gguf.read(model) as source:
            return plan(source, type=type, imatrix=imatrix, tensor_types=tensor_types, extra=extra, progress=progress)
    recipe = recipe_named(type) if isinstance(type, str) else type
    info = imatrix if imatrix is None or isinstance(imatrix, ImatrixInfo) else _imatrix_info(model, Path(imatrix))
    overrides = _overrides(model, recipe, Path(tensor_types)) if tensor_types is not None else {}
    ranks = ffn_ranks(model, progress) if recipe.ranked else None
    types, fallbacks = assign(model, recipe, imatrix=info is not None, ranks=ranks, overrides=overrides)
    name = f"{recipe.name}+tensor-types" if overrides else recipe.name
    return from_types(
        model, types, recipe=name, file_type=recipe.file_type, fallbacks=fallbacks, imatrix=info, extra=extra
    )


def assign(
    source: GGUF,
    recipe: Recipe,
    *,
    imatrix: bool = False,
    ranks: Mapping[str, int] | None = None,
    overrides: Mapping[str, TensorType] | None = None,
) -> tuple[dict[str, TensorType], dict[str, str]]:
    """Tensor to type, in the file's order, and the tensors that fell back with the type they could not have.

    Pure. `ranks`: see `ranking.ffn_ranks`, for recipes that ask for it; `overrides`: types in place of the recipe's.
    A tensor in a type that models are trained in keeps it: another would add its error to none.
    Raises PlanError for a header that lacks what the rules ask for, and for rows that no fallback is defined for.
    """
    kept = {name: tensor.type for name, tensor in source.tensors.items() if tensor.type.trained}
    wanted = kept | dict(overrides or {})
    for site in sites(source, imatrix=imatrix, ranks=ranks, fixed=frozenset(wanted)):
        wanted[site.name] = tensor_type(choose(recipe, site))
    types, fallbacks = {}, {}
    for name, tensor in source.tensors.items():
        types[name] = _fit(source, name, wanted[name]) if name in wanted else tensor.type
        if name in wanted and types[name] is not wanted[name]:
            fallbacks[name] = wanted[name].name
    return types, fallbacks


def from_types(
    model: GGUF,
    types: Mapping[str, TensorType],
    *,
    recipe: str,
    file_type: int,
    fallbacks: Mapping[str, str] | None = None,
    imatrix: ImatrixInfo | None = None,
    extra: Extra = (),
) -> Plan:
    """The plan that gives each tensor of the model the type in `types`, with its exact sizes; PlanError without any."""
    if not model.tensors:
        raise PlanError(model.path, "tensors", expected="a model with weights", found="none")
    specs = [TensorSpec(name, tensor.shape, types[name]) for name, tensor in model.tensors.items()]
    return Plan(
        recipe=recipe,
        file_type=file_type,
        model=str(model.get("general.name", model.path.stem)),
        digest=_digest(model),
        tensors={spec.name: spec.type.name for spec in specs},
        matrices=_matrices(model),
        fallbacks=dict(fallbacks or {}),
        imatrix=imatrix,
        weights=sum(spec.weights for spec in specs),
        tensor_bytes=sum(spec.nbytes for spec in specs),
        bytes=gguf.layout(quantized_metadata(model, file_type, imatrix, extra), specs).file_bytes,
    )


def missing_importance(plan: Plan, covered: Collection[str]) -> list[str]:
    """As `needing_importance` for a plan's types; in a Q2_K_S file Q2_K needs it too."""
    strict = {"Q2_K"} if plan.file_type == MIXES["Q2_K_S"].file_type else set()
    return needing_importance(plan.types, covered, strict)


def needing_importance(
    types: Mapping[str, TensorType], covered: Collection[str], strict: Collection[str] = ()
) -> list[str]:
    """The tensors whose type needs an importance matrix that does not cover them (`covered`: its tensors).

    Never an embedding or the output. `strict`: names of types that need it beside those that always do. Source:
    `tensor_requires_imatrix` in llama.cpp.
    """
    needing = [name for name, type in types.items() if type.needs_imatrix or type.name in strict]
    return [name for name in needing if name not in _NO_IMPORTANCE and name not in covered]


def read_plan(path: str | Path, model: GGUF, *, extra: Extra = ()) -> Plan:
    """Read a `plan.json` for a model; raises PlanError as `from_json`, also for a file that cannot be read."""
    return from_json(_text(Path(path)), model, path=path, extra=extra)


def from_json(text: str, model: GGUF, *, path: str | Path | None = None, extra: Extra = ()) -> Plan:
    """Read `plan.json` for a model; sizes are computed again, so types may have been edited.

    `path` is for messages, `extra` as in `plan`. Raises PlanError for a malformed plan, another version, another model,
    and types that the model's tensors cannot have.
    """
    values = _parsed(text, path)
    if values.get("version") != VERSION:
        raise PlanError(path, "version", expected=VERSION, found=values.get("version"))
    recipe, file_type = _field(values, "recipe", str, path), _field(values, "file_type", int, path)
    if all(mix.file_type != file_type for mix in MIXES.values()):
        raise PlanError(path, "file_type", expected="a number of llama.cpp's", found=file_type)
    identity = _field(values, "model", dict, path)
    if identity.get("digest") != _digest(model):
        hint = f"The plan is for {identity.get('name')}; make one for this model with `quantpress plan`"
        raise PlanError(path, f"tensors of {model.path}", expected="those that were planned", found="others", hint=hint)
    fallbacks = {str(name): str(type) for name, type in _field(values, "fallbacks", dict, path).items()}
    tensors = {name: tensor_type(str(type)) for name, type in _field(values, "tensors", dict, path).items()}
    check(model, tensors, path)
    info = _info_field(values, path)
    found = from_types(
        model, tensors, recipe=recipe, file_type=file_type, fallbacks=fallbacks, imatrix=info, extra=extra
    )
    return replace(found, plain=_plain_field(values, model, path))


def check(model: GGUF, tensors: Mapping[str, TensorType], path: str | Path | None = None) -> None:
    """Raise PlanError unless every tensor of the model, and no other, has a type that it can be given."""
    for name in (*(model.tensors.keys() - tensors), *(tensors.keys() - model.tensors)):
        raise PlanError(path, f"tensor {name}", expected="the tensors of the model", found=_where(name, model))
    matrices = set(_matrices(model))
    for name, type in tensors.items():
        tensor = model.tensors[name]
        if type is tensor.type:
            continue
        if name not in matrices:
            raise PlanError(path, f"tensor {name}", expected=f"{tensor.type.name}, as it is", found=type.name)
        if not type.encodable or tensor.cols % type.block:
            expected = f"a type that rows of {tensor.cols} can have"
            raise PlanError(path, f"tensor {name}", expected=expected, found=type.name)


def _fit(source: GGUF, name: str, wanted: TensorType) -> TensorType:
    """The type itself or its fallback; an error where llama.cpp has none."""
    cols = source.tensors[name].cols
    if cols % wanted.block and wanted.block > 32 and wanted.fallback is None:
        expected = f"rows of a multiple of {wanted.block} for {wanted.name}, which has no fallback"
        raise PlanError(source.path, f"tensor {name}", expected=expected, found=f"rows of {cols}")
    return fitting_type(wanted, cols)


def _overrides(model: GGUF, recipe: Recipe, path: Path) -> dict[str, TensorType]:
    if not _quantized(recipe.file_type):
        hint = "llama-quantize ignores tensor types for these"
        raise PlanError(path, "recipe", expected="one of a quantized type", found=recipe.name, hint=hint)
    return tensor_types.from_text(_text(path), _matrices(model), path)


def _matrices(model: GGUF) -> tuple[str, ...]:
    """The tensors that a recipe gives a type to."""
    architecture = str(model.get("general.architecture"))
    return tuple(name for name, tensor in model.tensors.items() if quantizable(name, tensor.shape, architecture))


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise PlanError(path, "file", expected="a readable text", found=error) from error


def _imatrix_info(model: GGUF, path: Path) -> ImatrixInfo:
    from quantpress.imatrix import check_model, read  # here, because reading alone is no reason to import the engine

    found = read(path)
    check_model(found, model)
    return found.info


def _quantized(file_type: int) -> bool:
    return all(mix.file_type != file_type or tensor_type(mix.base).quantized for mix in MIXES.values())


def _digest(model: GGUF) -> str:
    """SHA-256 over names and shapes, sorted: the same for every float type a model is kept in."""
    lines = sorted(f"{name} {list(tensor.shape)}\n" for name, tensor in model.tensors.items())
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _where(name: str, model: GGUF) -> str:
    return "no type for it" if name in model.tensors else "one that it does not have"


def _parsed(text: str, path: str | Path | None) -> dict[str, Any]:
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise PlanError(path, "plan", expected="JSON", found=error) from error
    if not isinstance(values, dict):
        raise PlanError(path, "plan", expected="a JSON object", found=values.__class__.__name__)
    return values


def _field(values: Mapping[str, Any], key: str, kind: type, path: str | Path | None) -> Any:
    value = values.get(key)
    if not isinstance(value, kind):
        raise PlanError(path, key, expected=kind.__name__, found=value)
    return value


def _plain_field(values: dict[str, Any], model: GGUF, path: str | Path | None) -> tuple[str, ...]:
    found = values.get("plain", [])
    if not isinstance(found, list) or not all(isinstance(name, str) and name in model.tensors for name in found):
        raise PlanError(path, "plain", expected="a list of the model's tensors", found=found)
    return tuple(found)


def _info_field(values: Mapping[str, Any], path: str | Path | None) -> ImatrixInfo | None:
    if values.get("imatrix") is None:
        return None
    found = _field(values, "imatrix", dict, path)
    dataset = None if found.get("dataset") is None else _field(found, "dataset", str, path)
    counts = _field(found, "entries", int, path), _field(found, "chunks", int, path)
    return ImatrixInfo(_field(found, "file", str, path), dataset, *counts)
