"""Latent attention (MLA): keys and values are kept as one latent vector a token, and `kv_b_proj` makes them of it.

llama.cpp takes queries to the latent space instead, so it wants the two halves of that matrix one by one, that of the
keys transposed.
"""

from __future__ import annotations

from quantpress.checkpoint import Section
from quantpress.convert.architecture import Sources
from quantpress.convert.sources import Source, reordered, transposed
from quantpress.errors import CheckpointError

__all__ = ["keys_and_values", "widths"]


def widths(config: Section) -> tuple[int, ...]:
    """Heads, the latent vector, and the parts of a head: of keys without and with positions, of values."""
    fields = ("num_attention_heads", "kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim")
    return tuple(config.integer(field) for field in fields)


def keys_and_values(sources: Sources, config: Section) -> Sources:
    """`kv_b_proj` [heads * (plain + value), latent] as `k_b_proj` and `v_b_proj` [heads, value, latent].

    That of the keys is [heads, latent, plain], its matrices transposed. Raises CheckpointError for another shape.
    """
    heads, latent, plain, _, value = widths(config)
    found: Sources = {}
    for name, source in sources.items():
        if not name.endswith(".kv_b_proj.weight"):
            found[name] = source
            continue
        if source.shape != (heads * (plain + value), latent):
            expected, shape = [heads * (plain + value), latent], list(source.shape)
            raise CheckpointError(source.path, f"{source.name}: shape", expected=expected, found=shape)
        keys = _of_heads(source, (heads, plain, latent), 0, plain + value)
        found[name.replace(".kv_b_proj.", ".k_b_proj.")] = transposed(keys)
        values = _of_heads(source, (heads, value, latent), plain, plain + value)
        found[name.replace(".kv_b_proj.", ".v_b_proj.")] = values
    return found


def _of_heads(source: Source, shape: tuple[int, int, int], first: int, whole: int) -> Source:
    """Of `whole` rows a head, those from `first` on that fill the shape [heads, rows, cols]."""
    height = shape[1]
    return reordered(source, lambda row: row // height * whole + first + row % height, shape)
