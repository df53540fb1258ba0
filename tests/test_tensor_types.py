"""The file for `--tensor-type-file`: written so that every name has its line, read so that no line is lost."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantpress import tensor_types
from quantpress.errors import PlanError
from quantpress.formats import TYPES

NAMES = ["blk.1.attn_q.weight", "blk.11.attn_q.weight", "blk.1.attn_q_a.weight", "output.weight"]


def test_a_line_is_a_pattern_for_one_name() -> None:
    text = tensor_types.to_text({"blk.0.attn_q.weight": TYPES["Q4_K"]})
    assert text == "^blk\\.0\\.attn_q\\.weight$=q4_k\n"


def test_what_is_written_is_read_back() -> None:
    types = dict(zip(NAMES, [TYPES["Q4_K"], TYPES["IQ3_S"], TYPES["F16"], TYPES["Q6_K"]], strict=True))
    assert tensor_types.from_text(tensor_types.to_text(types), NAMES) == types


@given(st.text(min_size=1, max_size=20))
def test_a_pattern_survives_llama_quantize(name: str) -> None:
    """It cuts at white space and at the first `=`, sets the pattern in lower case, and searches in bytes."""
    line = tensor_types.to_text({name: TYPES["Q4_K"]}).removesuffix("\n").encode()
    assert len(line.split()) == 1
    pattern, _, type = line.partition(b"=")
    assert type == b"q4_k"
    assert re.search(pattern.lower(), name.encode(), re.DOTALL)


def test_the_first_match_wins() -> None:
    found = tensor_types.from_text("blk\\.1\\.attn_q\\.=q8_0 ATTN_Q=Q4_K", NAMES)
    assert {name: type.name for name, type in found.items()} == {NAMES[0]: "Q8_0", NAMES[1]: "Q4_K", NAMES[2]: "Q4_K"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("attn_q=q4_k\nattn_q=q8_0", r"line attn_q=q8_0: expected an effect, found attn_q=q4_k before it"),
        ("attn_q=q4_k attn_q_a=q8_0", r"line attn_q_a=q8_0.*attn_q=q4_k before it"),
        ("ffn_up=q4_k", r"line ffn_up=q4_k.*no match"),
        ("attn_q", "line attn_q.*pattern=type"),
        ("=q4_k", "line =q4_k.*pattern=type"),
        ("attn_q=q4_x", "tensor type.*q4_x"),
        ("attn_(q=q4_k", "regular expression"),
        ("attn_[[:alpha:]]=q4_k", "pattern=type"),
    ],
)
def test_lines_that_would_be_lost_or_are_wrong_are_refused(text: str, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        tensor_types.from_text(text, NAMES)


def test_a_repeated_line_of_the_same_type_does_no_harm() -> None:
    assert tensor_types.from_text("attn_q=q4_k attn_q_a=q4_k", NAMES)[NAMES[2]] is TYPES["Q4_K"]


def test_an_empty_file_overrides_nothing() -> None:
    assert tensor_types.from_text(" \n", NAMES) == {}
