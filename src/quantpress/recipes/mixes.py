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
    Recipe("F32", 0, "F32", description="Every matrix in 32-bit float. Only for tools that need it"),
    Recipe("F16", 1, "F16", description="Every matrix in half precision; values over 65,504 do not fit"),
    Recipe("BF16", 32, "BF16", description="The full weights as most checkpoints hold them"),
)

_ROUND = (
    Recipe("Q8_0", 7, "Q8_0", description="Nearly indistinguishable from the full weights, largest quantized file"),
    _mix("Q5_1", 9, "Q5_1", "Old format with an offset in each block; Q5_K_M is smaller"),
    _mix(
        "Q5_0",
        8,
        "Q5_0",
        "Old format; Q5_K_S has about this size",
        use("Q5_1", DOWN, first_eighth, with_imatrix),
    ),
    _mix("Q4_1", 3, "Q4_1", "Old format, about as good as Q4_K_S, more tokens per watt on Apple silicon"),
    _mix(
        "Q4_0",
        2,
        "Q4_0",
        "Old format that llama.cpp repacks for fast ARM and AVX CPU inference",
        use("Q4_1", DOWN, first_eighth, with_imatrix),
    ),
    _mix("Q2_0", 41, "Q2_0", "2.25 bits for models trained to it, otherwise unusable", use("Q4_K", EMBEDDING)),
    _mix("Q1_0", 40, "Q1_0", "1.125 bits for models trained to it, otherwise unusable"),
    _mix("TQ2_0", 37, "TQ2_0", "Ternary weights, the faster layout; for models trained to it", use("Q4_K", EMBEDDING)),
    _mix("TQ1_0", 36, "TQ1_0", "Ternary weights, the denser layout; for models trained to it", use("Q4_K", EMBEDDING)),
    Recipe(
        "MXFP4_MOE",
        38,
        "Q8_0",
        (
            use("MXFP4", frozenset(Role) - {OUTPUT}, stacked, not_bailing_moe),
            use("MXFP4", FFN, stacked),
        ),
        "Experts in the 4-bit float that some mixtures of experts are trained in, the rest in Q8_0",
    ),
)

_K = (
    _mix("Q6_K", 18, "Q6_K", "Very close to the full weights, recommended"),
    _mix(
        "Q5_K_M",
        17,
        "Q5_K",
        "High quality, recommended",
        use("Q6_K", frozenset({VALUE, DOWN}), spread),
    ),
    _mix("Q5_K_S", 16, "Q5_K", "High quality, a little smaller, recommended"),
    _mix(
        "Q4_K_M",
        15,
        "Q4_K",
        "Good quality and the usual choice, recommended",
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
        "Slightly lower quality for less space, recommended",
        use("Q5_K", VALUE, first_four),
        use("Q5_K", DOWN, not_falcon, first_eighth),
        EXPERTS_OUT,
    ),
    _mix(
        "Q3_K_L",
        13,
        "Q3_K",
        "Lower quality but usable where memory is short",
        use("Q5_K", frozenset({VALUE, DOWN})),
        use("Q4_K", DOWN, falcon),
        use("Q5_K", ATTENTION_OUTPUT, not_eight_experts),
        use("Q4_K", ATTENTION_OUTPUT, falcon),
    ),
    _mix(
        "Q3_K_M",
        12,
        "Q3_K",
        "Low quality",
        use("Q4_K", VALUE),
        use("Q5_K", VALUE, first_two),
        use("Q4_K", DOWN, not_falcon),
        use("Q4_K", DOWN, spread),
        use("Q5_K", DOWN, first_sixteenth),
        use("Q4_K", ATTENTION_OUTPUT, not_falcon),
        EXPERTS_OUT,
    ),
    _mix("Q3_K_S", 11, "Q3_K", "Low quality, not recommended: IQ3_XS is smaller and about as good", EXPERTS_OUT),
    _mix(
        "Q2_K",
        10,
        "Q2_K",
        "Very low quality, yet usable",
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
        "Very low quality; needs an importance matrix",
        SHARED_Q4,
        use("Q4_K", DOWN, first_eighth),
    ),
)

_I4 = (SHARED_Q5, use("Q5_K", DOWN, without_imatrix, first_eighth), EXPERTS_OUT)
_I = (
    _mix("IQ4_NL", 25, "IQ4_NL", "Like IQ4_XS, slightly larger; llama.cpp repacks it for ARM CPUs", *_I4),
    _mix("IQ4_XS", 30, "IQ4_XS", "Decent quality, smaller than Q4_K_S and nearly as good, recommended", *_I4),
    _mix(
        "IQ3_M",
        27,
        "IQ3_S",
        "Medium to low quality, comparable to Q3_K_M and smaller",
        use("Q4_K", VALUE),
        use("Q4_K", DOWN, first_eighth),
        use("Q4_K", DOWN, eight_experts, spread),
        use("Q4_K", ATTENTION_OUTPUT, not_falcon),
        EXPERTS_OUT,
    ),
    _mix("IQ3_S", 26, "IQ3_S", "Low quality, about the size of Q3_K_S", SHARED_Q4, EXPERTS_OUT),
    _mix(
        "IQ3_XS",
        22,
        "IQ3_S",
        "Low quality, smaller than Q3_K_S and about as good",
        SHARED_Q4,
        use("IQ3_XXS", frozenset({QUERY, KEY})),
        use("IQ3_XXS", frozenset({UP, GATE}), middle),
        EXPERTS_OUT,
    ),
    _mix(
        "IQ3_XXS",
        23,
        "IQ3_XXS",
        "Low quality, comparable to the Q3 files",
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
        "Relatively low quality, surprisingly usable",
        "IQ3_S",
        use("IQ3_S", ATTENTION_OUTPUT),
    ),
    _low_mix("IQ2_S", 28, "IQ2_XS", "Low quality, a little under IQ2_M", "IQ3_S", use("IQ3_S", ATTENTION_OUTPUT)),
    _low_mix("IQ2_XS", 20, "IQ2_XS", "Low quality, a little over two bits", "Q2_K"),
    _low_mix("IQ2_XXS", 19, "IQ2_XXS", "Very low quality, about two bits", "Q2_K"),
    _low_mix("IQ1_M", 31, "IQ1_M", "Extremely low quality", "Q2_K", use("IQ2_XXS", ATTENTION_OUTPUT)),
    _low_mix("IQ1_S", 24, "IQ1_S", "Smallest file, extremely low quality", "Q2_K", use("IQ2_XXS", ATTENTION_OUTPUT)),
)

MIXES = {mix.name: mix for mix in (*_FLOATS, *_ROUND, *_K, *_I)}
ALIASES = {"Q3_K": "Q3_K_M", "Q4_K": "Q4_K_M", "Q5_K": "Q5_K_M"}


def _large(name: str, mix: str, description: str) -> Recipe:
    """A mix with embedding and output in Q8_0."""
    of = MIXES[mix]
    return replace(of, name=name, rules=(*of.rules, use("Q8_0", ENDS)), description=description)


VARIANTS = {
    variant.name: variant
    for variant in (
        _large("Q6_K_L", "Q6_K", "Q6_K with embedding and output in Q8_0. Very close to the full weights, recommended"),
        _large("Q5_K_L", "Q5_K_M", "Q5_K_M with embedding and output in Q8_0. High quality, recommended"),
        _large("Q4_K_L", "Q4_K_M", "Q4_K_M with embedding and output in Q8_0. Good quality, recommended"),
        _large("Q3_K_XL", "Q3_K_L", "Q3_K_L with embedding and output in Q8_0. Usable where memory is short"),
        _large("Q2_K_L", "Q2_K", "Q2_K with embedding and output in Q8_0. Very low quality, yet usable"),
    )
}
