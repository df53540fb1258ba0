"""The matrices of a model that a recipe gives a type to: which they are, what they do, in which order they count.

Facts: `tensor_allows_quantization`, `tensor_get_category`, the order of `weights_map` and `load_hparams` in llama.cpp
at commit 0c1e57098. The order matters: "the first eighth" of a role is counted in it, and the file's may be another.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

import numpy as np

from quantpress.errors import PlanError
from quantpress.recipes.rules import ModelFacts, Role, Site

if TYPE_CHECKING:
    from quantpress.gguf import GGUF

__all__ = ["llama_order", "model_facts", "quantizable", "role_of", "sites"]

# Matrices that stay as they are: small, or read by code that knows no blocks.
_KEPT = re.compile(
    r"_norm\.weight|ffn_gate_(inp|tid2eid)\.weight|altup|laurel|per_layer_model_proj|ssm_conv1d|shortconv\.conv\.weight"
    r"|indexer\.[kq]_proj\.weight|attn_rel_b\.weight|^(position_embd|token_types)\.weight$"
    r"|time_mix_(first|w[012]|v[012]|a[012]|g[12]|decay_w[12]|lerp_fused)\.weight"
    r"|\.position_embd|sam\.(pos_embd|neck\.|net_)|\.rel_pos|\.patch_(embd|merger)|a\.rvq\.codebook|mm\.a\.code_embd"
)
_KEPT_GLM5 = re.compile(
    r"hc_|indexer\.(attn_q_b|attn_k|proj)|indexer_compressor_(gate|ape)|ssm_([fg]_[ab]|beta)\.weight"
    r"|attn_(kv_a_mqa|k_b|v_b)\.weight"
)
_ROLES = (  # the first part found in a name decides
    (re.compile(r"attn_(qkv|kv_b|v)\.weight"), Role.VALUE),
    (re.compile(r"attn_k\.weight"), Role.KEY),
    (re.compile(r"attn_q\.weight"), Role.QUERY),
    (re.compile(r"attn_output\.weight"), Role.ATTENTION_OUTPUT),
    (re.compile(r"ffn_up"), Role.UP),
    (re.compile(r"ffn_gate"), Role.GATE),
    (re.compile(r"ffn_down"), Role.DOWN),
)
_EMBEDDINGS = ("token_embd.weight", "per_layer_token_embd.weight")
_OUTPUT = "output.weight"
_SEVENTY = {"llama": 80, "llama-embed": 80, "deci": 80, "olmo": 80, "qwen2": 80, "jais2": 68}  # layers of a 70B model


def quantizable(name: str, shape: tuple[int, ...], architecture: str) -> bool:
    """Whether llama.cpp quantizes that tensor (`shape` in ggml's order); the others keep the type they have."""
    if all(size == 1 for size in shape[1:]) or not name.endswith("weight"):
        return False
    return not (_KEPT.search(name) or (architecture == "glm5-next" and _KEPT_GLM5.search(name)))


def role_of(name: str, *, tied: bool = False) -> Role:
    """What a tensor does, from its name; `tied`: the model has no output.weight and its embedding serves as such."""
    if name == _OUTPUT or (tied and name in _EMBEDDINGS):
        return Role.OUTPUT
    if name in _EMBEDDINGS:
        return Role.EMBEDDING
    return next((role for part, role in _ROLES if part.search(name)), Role.OTHER)


def llama_order(name: str) -> tuple[int, str]:
    """Sort key of llama.cpp's order: tensors outside of layers, then layer by layer, by name."""
    found = re.match(r"blk\.(\d+)", name)
    return (int(found[1]) if found else -1), name


def model_facts(source: GGUF, *, imatrix: bool = False, ranked: int = 0) -> ModelFacts:
    """What the rules ask about a model, from its header; raises PlanError if the header does not say it."""
    architecture = source.get("general.architecture")
    if not isinstance(architecture, str):
        raise PlanError(source.path, "general.architecture", expected="a name", found=architecture)
    blocks = _number(source, architecture, "block_count")
    heads = _number(source, architecture, "attention.head_count", 0)
    kv_heads = _number(source, architecture, "attention.head_count_kv", heads)
    own = blocks - _number(source, architecture, "nextn_predict_layers", 0)
    seventy = _SEVENTY.get(architecture) == own and (not architecture.startswith("llama") or heads != kv_heads)
    return ModelFacts(
        architecture,
        _layers(source, architecture, blocks, own),
        heads // kv_heads if kv_heads else 0,
        _number(source, architecture, "expert_count", 0),
        seventy,
        sum(role_of(name) is Role.VALUE for name in source.tensors),
        ranked,
        imatrix,
    )


def sites(
    source: GGUF, *, imatrix: bool = False, ranks: Mapping[str, int] | None = None, fixed: Collection[str] = ()
) -> list[Site]:
    """The matrices to give a type to, in llama.cpp's order; `ranks`: the FFN tensors' places, if a recipe asks.

    Tensors in `fixed` have their type from elsewhere: they are left out and, as in llama.cpp, not counted.
    """
    model = model_facts(source, imatrix=imatrix, ranked=len(ranks or ()))
    tied = _OUTPUT not in source.tensors
    counted: Counter[Role] = Counter()
    found = []
    for name in sorted(source.tensors, key=llama_order):
        shape = source.tensors[name].shape
        if name in fixed or not quantizable(name, shape, model.architecture):
            continue
        role = role_of(name, tied=tied)
        found.append(Site(model, name, shape, role, counted[role], (ranks or {}).get(name, 0)))
        counted[role] += 1
    return found


def _number(source: GGUF, architecture: str, key: str, default: int | None = None) -> int:
    """A number of the architecture; of the first layer, where each layer has its own."""
    value = source.get(f"{architecture}.{key}", default)
    first = value[0] if isinstance(value, np.ndarray) and value.size else value
    if isinstance(first, bool) or not isinstance(first, (int, np.integer)) or first < 0:
        raise PlanError(source.path, f"{architecture}.{key}", expected="a whole number", found=value)
    return int(first)


def _layers(source: GGUF, architecture: str, blocks: int, own: int) -> int:
    """The number of layers that llama.cpp counts with: two architectures have more than the header says."""
    if architecture == "nanbeige":
        loops = _number(source, architecture, "num_loops", 1)
        return own * loops if loops > 1 else blocks
    return own + 1 if architecture == "graniteswitch" else blocks
