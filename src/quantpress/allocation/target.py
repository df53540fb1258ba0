"""What a plan is asked for: a size, in one of four ways of saying it, and how much measuring it is worth.

    2.40GB            the file, at most so many bytes            --size
    3.98bpw           bits a weight, over all tensors            --bpw
    like:Q4_K_M       no larger than that recipe's file          --like
    fit:16GB          weights, KV cache and buffers together     --fit, with --context and --kv

After `auto:`, the same words are a variant of a release.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from quantpress.allocation.candidates import Group, bounds, fixed_bytes
from quantpress.errors import PlanError
from quantpress.gguf import GGUF
from quantpress.memory import weight_budget
from quantpress.metadata import ImatrixInfo, quantized_metadata
from quantpress.plan import Extra, Plan, plan
from quantpress.recipes import recipe
from quantpress.sizes import parse_bytes

__all__ = ["PREFIX", "Spend", "Target", "is_automatic", "parse_spend", "parse_target"]

PREFIX = "auto:"
_BPW = re.compile(r"(\d+(?:\.\d+)?)\s*bpw", re.IGNORECASE)
_SPEND = re.compile(r"(\d+(?:\.\d+)?)\s*(s|m|h)?", re.IGNORECASE)
_SECONDS = {"s": 1, "m": 60, "h": 3600}
_CONTEXT = 4096


@dataclass(frozen=True)
class Target:
    """One of the four: `kind` is size, bpw, like or fit; `text` its value as it was given."""

    kind: str
    text: str
    context: int = _CONTEXT  # of `fit`
    cache_type: str = "F16"  # of `fit`

    @property
    def name(self) -> str:
        """What the plan and its file are called: AUTO-3.98bpw; AUTO-fit-16GB is no AUTO-16GB.

        `like:Q4_K_M` makes Q4_K_M_AUTO: a label that Hugging Face knows, and a tag that Q4_K_M does not find.
        """
        if self.kind == "like":
            return f"{self.text}_AUTO"
        return f"AUTO-{'fit-' if self.kind == 'fit' else ''}{self.text.replace(' ', '')}"

    def mix(self, model: GGUF, imatrix: ImatrixInfo | None, extra: Extra = ()) -> Plan | None:
        """The plan of the recipe that `like` names; None for the others. MP reads weights."""
        return plan(model, type=self.text, imatrix=imatrix, extra=extra) if self.kind == "like" else None

    def limit(
        self,
        model: GGUF,
        groups: Sequence[Group],
        imatrix: ImatrixInfo | None,
        extra: Extra = (),
        mix: Plan | None = None,
    ) -> int:
        """`file_bytes`, where there is such a file; raises PlanError with both bounds where there is none.

        More memory than the float model takes is no error: it fits, too. `mix`: that plan, if it is at hand.
        """
        smallest, largest = bounds(groups, fixed_bytes(model, groups, imatrix=imatrix, extra=extra))
        found = mix.bytes if mix else self.file_bytes(model, groups, imatrix, extra)
        found = min(found, largest) if self.kind == "fit" else found
        if not smallest <= found <= largest:
            expected = f"a file of {smallest:,} to {largest:,} bytes, the smallest and the largest that there can be"
            raise PlanError(model.path, self.text, expected=expected, found=f"{found:,} bytes")
        return found

    def file_bytes(self, model: GGUF, groups: Sequence[Group], imatrix: ImatrixInfo | None, extra: Extra = ()) -> int:
        """The most bytes that the file may have; raises PlanError for a target that cannot be understood."""
        if self.kind == "size":
            return parse_bytes(self.text)
        if (mix := self.mix(model, imatrix, extra)) is not None:
            return mix.bytes
        metadata = quantized_metadata(model, 0, imatrix, extra)
        if self.kind == "fit":
            memory, cache = parse_bytes(self.text, "memory"), self.cache_type
            return weight_budget(model, memory, context=self.context, cache_type=cache, outputs=1, metadata=metadata)
        chosen = {name for group in groups for name in group.names}
        rest = [tensor for tensor in model.tensors.values() if tensor.name not in chosen]
        weights = sum(tensor.weights for tensor in model.tensors.values())
        room = math.floor(float(self.text[: -len("bpw")]) * weights / 8) - sum(tensor.nbytes for tensor in rest)
        return fixed_bytes(model, groups, imatrix=imatrix, extra=extra) + room


def is_automatic(variant: str) -> bool:
    """Whether a variant's name asks for automatic allocation."""
    return variant.strip().lower().startswith(PREFIX)


def parse_target(text: str, *, context: int = _CONTEXT, cache_type: str = "F16") -> Target:
    """From `3.98bpw`, `2.40GB`, `like:Q4_K_M` or `fit:16GB`, with or without `auto:`; raises PlanError."""
    given = text.strip()
    words = given[len(PREFIX) :] if is_automatic(given) else given
    head, colon, value = words.strip().partition(":")
    if colon and head.lower() == "like":
        return Target("like", recipe(value).name)
    if colon and head.lower() == "fit":
        parse_bytes(value, "memory")
        return Target("fit", value.strip(), context, cache_type)
    if found := _BPW.fullmatch(words.strip()):
        return Target("bpw", f"{found[1]}bpw")
    if colon or not words.strip():
        expected = "auto:3.98bpw, auto:2.40GB, auto:like:Q4_K_M or auto:fit:16GB"
        raise PlanError(None, "target", expected=expected, found=text)
    parse_bytes(words)
    return Target("size", words.strip())


@dataclass
class Spend:
    """How much measuring is allowed: probes (forward passes over the search text), or seconds; None: no limit."""

    probes: int | None = None
    seconds: float | None = None
    done: int = 0
    started: float = field(default_factory=time.monotonic)

    @property
    def none(self) -> bool:
        """Whether nothing at all is to be measured."""
        return self.probes == 0 or self.seconds == 0

    def left(self, share: float = 1.0) -> int:
        """About how many probes more there can be in a share of the allowance, judged by those that were done."""
        limits = [10**6]
        if self.probes is not None:
            limits.append(int(share * self.probes) - self.done)
        if self.seconds is not None:
            spent = time.monotonic() - self.started
            limits.append(int((share * self.seconds - spent) * max(self.done, 1) / max(spent, 1e-3)))
        return max(0, min(limits))

    def restarted(self) -> Spend:
        """The same allowance, from now on."""
        return Spend(self.probes, self.seconds)


def parse_spend(text: str) -> Spend:
    """From `10m`, `90s`, `2h` (time) or `200` (probes); 0 for none. Raises PlanError."""
    found = _SPEND.fullmatch(text.strip())
    if found is None or (not found[2] and "." in found[1]):
        raise PlanError(None, "budget", expected="a time (10m, 90s, 2h) or a number of probes (200)", found=repr(text))
    if found[2]:
        return Spend(seconds=float(found[1]) * _SECONDS[found[2].lower()])
    return Spend(probes=int(found[1]))
