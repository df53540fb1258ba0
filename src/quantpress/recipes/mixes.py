"""The mixes of `llama-quantize`, and the `_L` variants that publishers derive from them.

A mix is one call of `_mix`: name, llama.cpp's file type, base type, the rules of its own. What all mixes have in common
(the output tensor, a mixture of eight experts, 70B models, GLM-5) is added there, after the rules of its own and so
over them. The facts are those of `llama_tensor_get_type_impl` in llama.cpp at commit 0c1e57098, tested against it.
"""

from __future__ import annotations

from dataclasses import replace

from quantpress.formats import TYPES
from quantpress.recipes.conditions import (
    Uneven,
    eight_experts,
    falcon,
    first_eighth,
    first_eighth_counted,
    first_four,
    first_sixteenth,
    first_two,
    four_experts,
    glm5_projection,
    middle,
    not_bailing_moe,
    not_eight_experts,
    not_falcon,
    seventy,
    shared_values,
    spread,
    stacked,
    with_imatrix,
    without_imatrix,
)
from quantpress.recipes.rules import FFN, Recipe, Role, Rule, use

__all__ = ["ALIASES", "ENDS", "MIXES", "VARIANTS"]

OUTPUT, EMBEDDING = Role.OUTPUT, Role.EMBEDDING
QUERY, KEY, VALUE, ATTENTION_OUTPUT = Role.QUERY, Role.KEY, Role.VALUE, Role.ATTENTION_OUTPUT
UP, GATE, DOWN = Role.UP, Role.GATE, Role.DOWN
ENDS = frozenset({EMBEDDING, OUTPUT})

GLM5 = use("Q8_0", frozenset(Role), glm5_projection)
EXPERTS_ATTENTION = (
    use("Q5_K", VALUE, seventy, over=frozenset({"Q3_K", "Q4_K"})),
    use("Q8_0", frozenset({KEY, VALUE}), eight_experts),
)
EXPERTS_OUT = use("Q5_K", ATTENTION_OUTPUT, eight_experts, not_falcon)
SHARED_Q4 = use("Q4_K", VALUE, shared_values)
SHARED_Q5 = use("Q5_K", VALUE, shared_values)


def _output(base: str, type: str) -> tuple[Rule, ...]:
    """The output's type, Q8_0 in Falcon and where its rows are no multiple of the base type's block."""
    return use(type, OUTPUT), use("Q8_0", OUTPUT, falcon), use("Q8_0", OUTPUT, Uneven(TYPES[base].block))


def _mix(name: str, file_type: int, base: str, description: str, *rules: Rule, output: str = "Q6_K") -> Recipe:
    shared = (*EXPERTS_ATTENTION, *_output(base, output), GLM5)
    return Recipe(name, file_type, base, (*rules, *shared), description)


def _low_mix(name: str, file_type: int, base: str, description: str, better: str, *rules: Rule) -> Recipe:
    """A mix of about two bits or less: `better` for the values and for the first eighth of the down projections."""
    shared = (
        use(better, VALUE),
        SHARED_Q4,
        use("Q4_K", VALUE, four_experts),
        use("Q4_K", KEY, eight_experts),
        use(better, DOWN, first_eighth_counted),
        *rules,
        use("Q5_K", ATTENTION_OUTPUT, eight_experts),
        use(better, EMBEDDING),
        *_output(base, "Q5_K"),
        GLM5,
    )
    return Recipe(name, file_type, base, shared, description)


_FLOATS = (
    Recipe("F32", 0, "F32", description="Every matrix in 32-bit float, for tools that take nothing else"),
    Recipe("F16", 1, "F16", description="Every matrix in half precision; values over 65,504 do not fit"),
    Recipe("BF16", 32, "BF16", description="Every matrix in bfloat16, what most checkpoints are published in"),
)

_ROUND = (
    Recipe("Q8_0", 7, "Q8_0", description="8 bits in blocks of 32, 8.5 bits a weight: about half of a 16-bit file"),
    _mix("Q5_1", 9, "Q5_1", "5 bits and an offset in each block of 32, 6 bits a weight; older than the K types"),
    _mix(
        "Q5_0",
        8,
        "Q5_0",
        "5 bits in blocks of 32, 5.5 bits a weight; older than the K types",
        use("Q5_1", DOWN, first_eighth, with_imatrix),
    ),
    _mix("Q4_1", 3, "Q4_1", "4 bits and an offset in each block of 32, 5 bits a weight; older than the K types"),
    _mix(
        "Q4_0",
        2,
        "Q4_0",
        "4 bits in blocks of 32, 4.5 bits a weight; older than the K types",
        use("Q4_1", DOWN, first_eighth, with_imatrix),
    ),
    _mix("Q2_0", 41, "Q2_0", "2 bits in blocks of 64, for models that were trained to it", use("Q4_K", EMBEDDING)),
    _mix("Q1_0", 40, "Q1_0", "The signs and a scale in each block of 128, for models that were trained to it"),
    _mix(
        "TQ2_0",
        37,
        "TQ2_0",
        "Ternary weights in 2 bits each, for models that were trained to it",
        use("Q4_K", EMBEDDING),
    ),
    _mix(
        "TQ1_0",
        36,
        "TQ1_0",
        "Ternary weights, five in a byte, for models that were trained to it",
        use("Q4_K", EMBEDDING),
    ),
    Recipe(
        "MXFP4_MOE",
        38,
        "Q8_0",
        (
            use("MXFP4", frozenset(Role) - {OUTPUT}, stacked, not_bailing_moe),
            use("MXFP4", FFN, stacked),
        ),
        "Experts in MXFP4, which some mixtures of experts are trained in, the rest in Q8_0",
    ),
)

_K = (
    _mix("Q6_K", 18, "Q6_K", "Every matrix in Q6_K, 6.56 bits a weight"),
    _mix(
        "Q5_K_M",
        17,
        "Q5_K",
        "Q5_K; output and half of the value and down projections in Q6_K",
        use("Q6_K", frozenset({VALUE, DOWN}), spread),
    ),
    _mix("Q5_K_S", 16, "Q5_K", "Q5_K; output in Q6_K"),
    _mix(
        "Q4_K_M",
        15,
        "Q4_K",
        "Q4_K; output and half of the value and down projections in Q6_K; what llama.cpp downloads by default",
        use("Q6_K", VALUE, spread),
        use("Q6_K", DOWN, spread),
        use("Q5_K", DOWN, falcon, spread),
        use("Q6_K", DOWN, falcon, first_sixteenth),
        EXPERTS_OUT,
    ),
    _mix(
        "Q4_K_S",
        14,
        "Q4_K",
        "Q4_K; output in Q6_K, the first value and down projections in Q5_K",
        use("Q5_K", VALUE, first_four),
        use("Q5_K", DOWN, not_falcon, first_eighth),
        EXPERTS_OUT,
    ),
    _mix(
        "Q3_K_L",
        13,
        "Q3_K",
        "Q3_K; value, down and attention output projections in Q5_K, output in Q6_K",
        use("Q5_K", frozenset({VALUE, DOWN})),
        use("Q4_K", DOWN, falcon),
        use("Q5_K", ATTENTION_OUTPUT, not_eight_experts),
        use("Q4_K", ATTENTION_OUTPUT, falcon),
    ),
    _mix(
        "Q3_K_M",
        12,
        "Q3_K",
        "Q3_K; value, down and attention output projections in Q4_K or Q5_K, output in Q6_K",
        use("Q4_K", VALUE),
        use("Q5_K", VALUE, first_two),
        use("Q4_K", DOWN, not_falcon),
        use("Q4_K", DOWN, spread),
        use("Q5_K", DOWN, first_sixteenth),
        use("Q4_K", ATTENTION_OUTPUT, not_falcon),
        EXPERTS_OUT,
    ),
    _mix("Q3_K_S", 11, "Q3_K", "Q3_K; output in Q6_K", EXPERTS_OUT),
    _mix(
        "Q2_K",
        10,
        "Q2_K",
        "Q2_K; value, down and attention output projections in Q3_K or Q4_K, output in Q6_K",
        use("Q3_K", VALUE),
        SHARED_Q4,
        use("Q3_K", DOWN),
        use("Q3_K", ATTENTION_OUTPUT, not_falcon),
        EXPERTS_OUT,
    ),
    _mix(
        "Q2_K_S",
        21,
        "Q2_K",
        "Q2_K; the first down projections in Q4_K, output in Q6_K; needs an importance matrix",
        SHARED_Q4,
        use("Q4_K", DOWN, first_eighth),
    ),
)

_I4 = (SHARED_Q5, use("Q5_K", DOWN, without_imatrix, first_eighth), EXPERTS_OUT)
_I = (
    _mix(
        "IQ4_NL",
        25,
        "IQ4_NL",
        "IQ4_NL, 4 bits of uneven steps in blocks of 32: 4.5 bits a weight; output in Q6_K",
        *_I4,
    ),
    _mix(
        "IQ4_XS",
        30,
        "IQ4_XS",
        "IQ4_XS, 4 bits of uneven steps in blocks of 256: 4.25 bits a weight; output in Q6_K",
        *_I4,
    ),
    _mix(
        "IQ3_M",
        27,
        "IQ3_S",
        "IQ3_S; value, attention output and the first down projections in Q4_K, output in Q6_K",
        use("Q4_K", VALUE),
        use("Q4_K", DOWN, first_eighth),
        use("Q4_K", DOWN, eight_experts, spread),
        use("Q4_K", ATTENTION_OUTPUT, not_falcon),
        EXPERTS_OUT,
    ),
    _mix("IQ3_S", 26, "IQ3_S", "IQ3_S, a codebook at 3.44 bits a weight; output in Q6_K", SHARED_Q4, EXPERTS_OUT),
    _mix(
        "IQ3_XS",
        22,
        "IQ3_S",
        "IQ3_S; query, key and most up and gate projections in IQ3_XXS, output in Q6_K",
        SHARED_Q4,
        use("IQ3_XXS", frozenset({QUERY, KEY})),
        use("IQ3_XXS", frozenset({UP, GATE}), middle),
        EXPERTS_OUT,
    ),
    _mix(
        "IQ3_XXS",
        23,
        "IQ3_XXS",
        "IQ3_XXS; query and key in IQ2_S, attention output and embedding in IQ3_S",
        use("IQ3_S", VALUE, without_imatrix),
        SHARED_Q4,
        use("IQ2_S", frozenset({QUERY, KEY})),
        use("Q3_K", DOWN, without_imatrix),
        use("Q4_K", DOWN, without_imatrix, first_eighth),
        use("IQ3_S", ATTENTION_OUTPUT, not_falcon),
        EXPERTS_OUT,
        use("IQ3_S", EMBEDDING),
        output="Q5_K",
    ),
    _low_mix(
        "IQ2_M",
        29,
        "IQ2_S",
        "IQ2_S; value, attention output, embedding and the first down projections in IQ3_S",
        "IQ3_S",
        use("IQ3_S", ATTENTION_OUTPUT),
    ),
    _low_mix(
        "IQ2_S",
        28,
        "IQ2_XS",
        "IQ2_XS; value, attention output, embedding and the first down projections in IQ3_S",
        "IQ3_S",
        use("IQ3_S", ATTENTION_OUTPUT),
    ),
    _low_mix("IQ2_XS", 20, "IQ2_XS", "IQ2_XS; value, embedding and the first down projections in Q2_K", "Q2_K"),
    _low_mix("IQ2_XXS", 19, "IQ2_XXS", "IQ2_XXS; value, embedding and the first down projections in Q2_K", "Q2_K"),
    _low_mix(
        "IQ1_M",
        31,
        "IQ1_M",
        "IQ1_M; value, embedding and the first down projections in Q2_K",
        "Q2_K",
        use("IQ2_XXS", ATTENTION_OUTPUT),
    ),
    _low_mix(
        "IQ1_S",
        24,
        "IQ1_S",
        "IQ1_S; value, embedding and the first down projections in Q2_K",
        "Q2_K",
        use("IQ2_XXS", ATTENTION_OUTPUT),
    ),
)

MIXES = {mix.name: mix for mix in (*_FLOATS, *_ROUND, *_K, *_I)}
ALIASES = {"Q3_K": "Q3_K_M", "Q4_K": "Q4_K_M", "Q5_K": "Q5_K_M"}


ENLARGED = {"Q6_K_L": "Q6_K", "Q5_K_L": "Q5_K_M", "Q4_K_L": "Q4_K_M", "Q3_K_XL": "Q3_K_L", "Q2_K_L": "Q2_K"}
"""The variants with embedding and output in Q8_0, and the mixes that they are beside that."""


def _large(name: str, mix: str) -> Recipe:
    rules, description = (*MIXES[mix].rules, use("Q8_0", ENDS)), f"{mix}; embedding and output in Q8_0"
    return replace(MIXES[mix], name=name, rules=rules, description=description)


VARIANTS = {name: _large(name, mix) for name, mix in ENLARGED.items()}
