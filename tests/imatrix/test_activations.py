"""The collector on tensors made through ggml itself: shapes and strides that the other tests do not have."""

import ctypes
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from quantpress.engine import activations, tensor
from quantpress.engine.activations import _Collector
from quantpress.engine.tensor import F16, F32, I32, Tensor, checked_library
from quantpress.errors import EngineError

DRAW = np.random.default_rng(1)


class Graph:
    """A ggml context whose tensors get memory and data once all are there."""

    def __init__(self) -> None:
        self.ggml = checked_library().functions
        self.context = self.ggml.ggml_init(tensor._InitParameters(1 << 20, None, True))
        self.buffer: int | None = None

    def new(self, type: int, *shape: int, name: str = "") -> int:
        made: int = self.ggml.ggml_new_tensor_4d(self.context, type, *shape, *[1] * (4 - len(shape)))
        self.ggml.ggml_set_name(made, name.encode())
        return made

    def allocate(self) -> None:
        buffer_type = self.ggml.ggml_backend_cpu_buffer_type()
        self.buffer = self.ggml.ggml_backend_alloc_ctx_tensors_from_buft(self.context, buffer_type)

    def fill(self, made: int, values: np.ndarray[Any, Any]) -> None:
        assert self.ggml.ggml_nbytes(made) == values.nbytes
        ctypes.memmove(Tensor.from_address(made).data, values.ctypes.data, values.nbytes)

    def close(self) -> None:
        if self.buffer:
            self.ggml.ggml_backend_buffer_free(self.buffer)
        self.ggml.ggml_free(self.context)


@pytest.fixture
def graph() -> Iterator[Graph]:
    made = Graph()
    yield made
    made.close()


def collector(process_output: bool = False) -> _Collector:
    return _Collector(checked_library(), process_output, threads=2)


def collect(node: int, *, times: int = 1) -> dict[str, tuple[Any, Any]]:
    found = collector()
    assert found(node, True, None)
    for _ in range(times):
        assert found(node, False, None)
    assert found.error is None
    return found.take()


def normal(*shape: int) -> np.ndarray[Any, Any]:
    return DRAW.standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("host", [True, False])
def test_dense(graph: Graph, host: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also as if the input were in a device's memory."""
    monkeypatch.setattr(graph.ggml, "ggml_backend_buffer_is_host", lambda buffer: host)
    weight, inputs = graph.new(F16, 64, 5, name="CUDA0#blk.0.attn_k.weight#0"), graph.new(F32, 64, 20)
    node = graph.ggml.ggml_mul_mat(graph.context, weight, inputs)
    graph.allocate()
    values = normal(20, 64)
    graph.fill(inputs, values)
    sums, counts = collect(node, times=3)["blk.0.attn_k.weight"]
    np.testing.assert_allclose(sums, 3 * (values.astype(np.float64) ** 2).sum(0)[None])
    assert counts.tolist() == [60]


def test_more_dimensions_are_more_tokens_where_the_weight_has_one_matrix(graph: Graph) -> None:
    weight, inputs = graph.new(F16, 8, 5, name="blk.1.x.weight"), graph.new(F32, 8, 16, 3, 2)
    node = graph.ggml.ggml_mul_mat(graph.context, weight, inputs)
    graph.allocate()
    values = normal(2, 3, 16, 8)
    graph.fill(inputs, values)
    sums, counts = collect(node)["blk.1.x.weight"]
    np.testing.assert_allclose(sums, (values.astype(np.float64) ** 2).sum((0, 1, 2))[None])
    assert counts.tolist() == [2 * 3 * 16]


def test_several_matrices_lie_in_one_row_with_one_count(graph: Graph) -> None:
    """As attention of DeepSeek's kind has them; six planes of input to three matrices, two each."""
    weight, inputs = graph.new(F16, 8, 5, 3, name="blk.0.attn_k_b.weight"), graph.new(F32, 8, 16, 6)
    node = graph.ggml.ggml_mul_mat(graph.context, weight, inputs)
    graph.allocate()
    values = normal(6, 16, 8)
    graph.fill(inputs, values)
    sums, counts = collect(node)["blk.0.attn_k_b.weight"]
    squares = (values.astype(np.float64) ** 2).sum(1)
    np.testing.assert_allclose(sums, (squares[:3] + squares[3:]).reshape(1, -1))
    assert counts.tolist() == [32]


@pytest.mark.parametrize("inputs_each", [1, 2])
def test_experts_by_strided_ids(graph: Graph, inputs_each: int) -> None:
    """One input for both of a token's experts, or one each; the ids are the first two of a longer row."""
    experts, tokens = 7, 9
    weight = graph.new(F16, 8, 5, experts, name="blk.0.ffn_up_exps.weight")
    inputs, routes = graph.new(F32, 8, inputs_each, tokens), graph.new(I32, experts, tokens)
    ids = graph.ggml.ggml_view_2d(graph.context, routes, 2, tokens, 4 * experts, 0)
    node = graph.ggml.ggml_mul_mat_id(graph.context, weight, inputs, ids)
    graph.allocate()
    values, order = normal(tokens, inputs_each, 8), np.argsort(normal(tokens, experts)).astype(np.int32)
    graph.fill(inputs, values)
    graph.fill(routes, order)
    sums, counts = collect(node)["blk.0.ffn_up_exps.weight"]
    expected = np.zeros((experts, 8))
    for token in range(tokens):
        for place in range(2):
            expected[order[token, place]] += values[token, place % inputs_each].astype(np.float64) ** 2
    np.testing.assert_allclose(sums, expected)
    assert counts.tolist() == np.bincount(order[:, :2].reshape(-1), minlength=experts).tolist()


def test_what_is_wanted(graph: Graph) -> None:
    inputs = {tokens: graph.new(F32, 8, tokens) for tokens in (15, 16)}
    halves = graph.new(F16, 8, 16)
    outputs = ("output.weight", "token_embd.weight", "CUDA0#output.weight#0", "CUDA0#token_embd.weight#0")
    names = ("blk.0.a.weight", *outputs, "blk", "per_layer_token_embd.weight")
    weights = {name: graph.new(F16, 8, 4, name=name) for name in names}

    def wanted(weight: str, operand: int, *, process_output: bool = False) -> bool:
        node = graph.ggml.ggml_mul_mat(graph.context, weights[weight], operand)
        return collector(process_output)(node, True, None)

    assert wanted("blk.0.a.weight", inputs[16])
    assert not wanted("blk.0.a.weight", inputs[15])
    assert not wanted("blk.0.a.weight", halves)
    for name in names[1:]:
        assert not wanted(name, inputs[16])
        assert wanted(name, inputs[16], process_output=True) == (name in outputs)
    assert not collector()(weights["blk"], True, None)  # a leaf


def test_an_error_in_the_callback_is_kept(graph: Graph) -> None:
    experts, tokens = 4, 3
    weight = graph.new(F16, 8, 5, experts, name="blk.0.ffn_up_exps.weight")
    inputs, ids = graph.new(F32, 8, 1, tokens), graph.new(I32, 2, tokens)
    node = graph.ggml.ggml_mul_mat_id(graph.context, weight, inputs, ids)
    graph.allocate()
    graph.fill(ids, np.full((tokens, 2), experts, dtype=np.int32))
    graph.fill(inputs, normal(tokens, 1, 8))
    found = collector()
    assert found(node, False, None)  # what runs goes on
    assert isinstance(found.error, EngineError)
    assert not found(node, True, None)  # and nothing more is wanted
    assert found.take() == {}


def test_an_input_that_is_not_finite(graph: Graph) -> None:
    weight, inputs = graph.new(F16, 8, 5, name="blk.3.ffn_down.weight"), graph.new(F32, 8, 16)
    node = graph.ggml.ggml_mul_mat(graph.context, weight, inputs)
    graph.allocate()
    values = normal(16, 8)
    values[3, 4] = np.nan
    graph.fill(inputs, values)
    with pytest.raises(EngineError, match=r"the input of blk\.3\.ffn_down\.weight is not finite"):
        collect(node)


def test_the_struct_is_as_ggml_has_it() -> None:
    library = checked_library()
    assert 0 < library.mul_mat != library.mul_mat_id > 0


@pytest.mark.parametrize("field", ["buffer", "ne", "op", "op_params", "src", "view_src", "data", "name"])
def test_another_layout_is_refused(field: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the library had eight more bytes before a field."""
    fields: list[Any] = []
    for name, kind in Tensor._fields_:
        fields += [("more", ctypes.c_int64)] if name == field else []
        fields.append((name, kind))
    moved = type("Tensor", (ctypes.Structure,), {"_fields_": fields})
    monkeypatch.setattr(tensor, "Tensor", moved)
    with pytest.raises(EngineError, match=r"llama-cpp-python \S+: struct ggml_tensor: .*layout has changed"):
        checked_library.__wrapped__()


def test_a_library_without_a_function_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensor, "_signatures", lambda: {"no_such_function": (None, ())})
    with pytest.raises(EngineError, match="no_such_function"):
        checked_library.__wrapped__()


def test_an_error_in_the_kernel_reaches_the_caller(moe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through the real scheduler: ctypes alone would print it and go on."""
    from quantpress.engine.messages import Settings
    from quantpress.engine.session import Session

    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("broken kernel")

    monkeypatch.setattr(activations._native, "add_squares", broken)
    session = Session(Settings(str(moe), 1, 1, 0, "F16"))
    with pytest.raises(RuntimeError, match="broken kernel"):
        list(activations.activations(session, np.ones((1, 32), dtype=np.int32), 1, False))
