"""Rotary positions: the fields of config.json, old and new, and the keys and tensors that say the same in GGUF.

Newer configurations have `rope_parameters`, one object or one a kind of layer; older ones have `rope_theta` and
`rope_scaling`, where the type may be called `type`.
"""

from __future__ import annotations

import math
from collections.abc import Collection

import numpy as np

from quantpress.arrays import Floats
from quantpress.checkpoint import Section
from quantpress.gguf import Metadata, Value

__all__ = ["LAYER_KINDS", "check_yarn", "llama3_factors", "rope", "rope_keys", "rotary_size"]

LAYER_KINDS = ("full_attention", "sliding_attention")


def rope(config: Section, known: Collection[str], kind: str = LAYER_KINDS[0]) -> Section:
    """The rope of one kind of layer, with `rope_type` and, where the configuration has one, `rope_theta`.

    Raises CheckpointError for a `rope_type` that is not among the known.
    """
    found = _parameters(config, kind)
    field = "type" if found.get("rope_type") is None and found.get("type") is not None else "rope_type"
    type_ = found.get(field, "default")
    if type_ not in known:
        hint = "It changes nothing up to max_position_embeddings: for texts of that length put 'default' in its place"
        raise found.error(field, " or ".join(known), type_, hint if type_ == "dynamic" else None)
    theta, beside = found.get("rope_theta"), "rope_theta" if kind == LAYER_KINDS[0] else "rope_local_base_freq"
    if theta is None and config.get(beside) is not None:
        theta = config.number(beside)
    return found.merged({"rope_type": type_, "rope_theta": theta})


def _parameters(config: Section, kind: str) -> Section:
    """The object of one kind of layer, with the name under which the file has it."""
    parameters, scaling = config.section("rope_parameters"), config.section("rope_scaling")
    found = parameters.section(kind) if parameters.values.keys() & set(LAYER_KINDS) else parameters
    if kind != LAYER_KINDS[0]:
        return found
    return found.merged(scaling.values) if found.values or not scaling.values else scaling


def rope_keys(config: Section, name: str, known: Collection[str] = ("default", "linear", "yarn", "llama3")) -> Metadata:
    """`<name>.rope.*` of the base frequency and its scaling, as llama.cpp's converter writes them."""
    found = rope(config, known)
    keys: Metadata = {}
    if found.get("rope_type") in ("linear", "yarn"):
        keys["scaling.type"] = Value.string(found.get("rope_type"))
        keys["scaling.factor"] = Value.f32(found.number("factor"))
    if found.get("rope_type") == "yarn":
        keys |= _yarn(found, config)
    if found.get("rope_theta") is not None:
        keys["freq_base"] = Value.f32(found.number("rope_theta"))
    return {f"{name}.rope.{key}": value for key, value in keys.items()}


def _yarn(found: Section, config: Section) -> Metadata:
    original = config.get("original_max_position_embeddings")
    keys = {
        "scaling.original_context_length": Value.u32(found.integer("original_max_position_embeddings", original)),
    }
    for key, fields in (
        ("yarn_ext_factor", ("extrapolation_factor",)),
        ("yarn_attn_factor", ("attention_factor", "attn_factor")),
        ("yarn_beta_fast", ("beta_fast",)),
        ("yarn_beta_slow", ("beta_slow",)),
    ):
        given = [field for field in fields if found.get(field) is not None]
        if given:
            keys[f"scaling.{key}"] = Value.f32(found.number(given[0]))
    return keys


def check_yarn(config: Section, *, betas: bool = False, all_dim: float = 0.0) -> None:
    """Raise CheckpointError for a yarn that llama.cpp computes otherwise than transformers; other types pass.

    `betas`: whether the graph reads beta_fast and beta_slow; `all_dim`: its yarn_log_mul. The factor of attention is
    one that llama.cpp computes itself, whatever the file says. transformers reads `attention_factor` alone; the
    `attn_factor` of some files, as of DeepSeek-R1-0528-Qwen3-8B, counts for neither.
    """
    found = _parameters(config, LAYER_KINDS[0])
    if found.get("rope_type", found.get("type")) != "yarn":
        return
    for key, expected in {} if betas else {"beta_fast": 32, "beta_slow": 1}.items():
        if found.get(key, expected) != expected:
            raise found.error(key, f"{expected}, as llama.cpp computes it", found.get(key))
    if found.get("truncate", True) is not True:
        raise found.error("truncate", "true, as llama.cpp computes it", found.get("truncate"))
    factor = found.number("factor")
    above, below = (found.get(key) and found.number(key) for key in ("mscale", "mscale_all_dim"))
    default = _magnitude(factor, above) / _magnitude(factor, below) if above and below else _magnitude(factor, 1)
    wanted = found.number("attention_factor", default)
    computed = _magnitude(factor, 1) / _magnitude(factor, all_dim)
    if not math.isclose(wanted, computed, rel_tol=1e-6):
        raise found.error("attention_factor", f"{computed:g}, as llama.cpp computes it", wanted)


def _magnitude(factor: float, scale: float) -> float:
    return 1.0 if factor <= 1 else 0.1 * scale * math.log(factor) + 1


def rotary_size(config: Section, found: Section, head: int) -> int:
    """Weights of a head that are rotated: `partial_rotary_factor` of them, from `found` or, in older files, `config`.

    Raises CheckpointError for a factor that is not from 0 to 1, or leaves an odd number.
    """
    factor = found.number("partial_rotary_factor", config.get("partial_rotary_factor", 1.0))
    size = int(head * factor)
    if factor > 1 or size < 2 or size % 2:
        raise found.error("partial_rotary_factor", f"a part of {head} that is an even number", factor)
    return size


def llama3_factors(config: Section, size: int) -> Floats | None:
    """What Llama 3.1's scaling divides each frequency by, float32 [size / 2]; None where the rope is not scaled so.

    Wavelengths beyond the old context are stretched by `factor`, short ones kept, those between are blended. From the
    description of the method in transformers' documentation of `rope_type` "llama3".
    """
    found = _parameters(config, LAYER_KINDS[0])
    if found.get("rope_type", found.get("type")) != "llama3":
        return None
    factor, context = found.number("factor", 8.0), found.integer("original_max_position_embeddings", 8192)
    low, high = found.number("low_freq_factor", 1.0), found.number("high_freq_factor", 4.0)
    theta = found.number("rope_theta", config.get("rope_theta", 10000.0))
    # in float32, as transformers does it: a wavelength may lie right at a boundary
    frequencies = 1.0 / np.float32(theta) ** (np.arange(0, size, 2, dtype=np.float32) / np.float32(size))
    wavelengths = 2 * math.pi / frequencies
    smooth = (context / wavelengths - low) / (high - low)
    blended = 1 / ((1 - smooth) / factor + smooth)
    factors = np.where(wavelengths > context / low, factor, blended)
    return np.where(wavelengths < context / high, 1.0, factors).astype(np.float32)
