"""Text that the model writes: the same whatever is written beside it, with ends of text and without."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import numpy as np
import pytest

from quantpress import gguf
from quantpress.engine import Engine
from quantpress.engine.generate import _draw_seed
from quantpress.errors import EngineError


@pytest.fixture(scope="module")
def engine(f32_gguf: Path) -> Iterator[Engine]:
    """In F32, where rounding depends least on how many texts are decoded together."""
    with Engine(f32_gguf, cache_type="F32") as running:
        yield running


def draw(engine: Engine, tokens: int, length: int, seed: int) -> list[list[int]]:
    """The texts, by their index."""
    found = {index: text.tolist() for index, text in engine.sample(tokens, length=length, seed=seed)}
    assert sorted(found) == list(range(len(found)))
    return [found[index] for index in range(len(found))]


def changed(source: Path, out: Path, eos: int, sharper: float = 1.0) -> Path:
    """The model with another end-of-text token, and logits multiplied."""
    with gguf.read(source) as model:
        metadata = {**model.metadata, "tokenizer.ggml.eos_token_id": gguf.Value.u32(eos)}
        specs = [gguf.TensorSpec(t.name, t.shape, t.type) for t in model.tensors.values()]
        with gguf.Writer(out, metadata, specs) as writer:
            for name in model.tensors:
                data = model.data(name)
                if name == "output_norm.weight":
                    data = (data.view(np.float32) * np.float32(sharper)).view(np.uint8)
                writer.write(name, 0, data)
    return out


def test_samples_are_repeatable_and_differ_by_seed(engine: Engine) -> None:
    first, other = draw(engine, 300, 60, seed=1), draw(engine, 300, 60, seed=2)
    assert first == draw(engine, 300, 60, seed=1)
    assert 200 <= sum(map(len, first)) <= 400
    assert all(len(text) <= 60 for text in first)
    assert not {tuple(text) for text in first} & {tuple(text) for text in other}


def test_sampled_text_is_the_models_own(engine: Engine) -> None:
    """At temperature 1 the mean negative log-likelihood of samples is the model's entropy: far below that of noise."""
    sample = max((tokens for _, tokens in engine.sample(256, length=128, seed=0)), key=len)
    window = np.concatenate([[engine.info.bos], sample]).astype(np.int32)[None]
    logits = np.concatenate(list(engine.logits(window)))[:-1].astype(np.float64)
    logits -= logits.max(axis=1, keepdims=True)
    scores = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    assert -scores[np.arange(len(sample)), sample].mean() < 5.5  # uniform noise: ln 4096 = 8.3


def agreeing(some: list[list[int]], others: list[list[int]]) -> int:
    """Texts that begin alike: rounding, other with other numbers of texts, turns one draw in 300."""
    return sum(a[:5] == b[:5] for a, b in zip(some, others, strict=False))


def test_a_text_is_the_same_in_any_number_of_slots(engine: Engine) -> None:
    texts = {count: draw(engine, 20 * count, 20, seed=3) for count in (1, 3, 9)}
    assert [len(found) for found in texts.values()] == [1, 3, 9]
    assert agreeing(texts[1], texts[9]) + agreeing(texts[3], texts[9]) >= 3
    assert agreeing(texts[9], texts[9][1:]) == 0


def test_a_text_as_long_as_the_context_is_the_whole_of_it(engine: Engine) -> None:
    """The BOS and every token but the last are fed: `length` positions."""
    (text,) = draw(engine, 256, 256, seed=0)
    assert len(text) == 256
    assert agreeing([text], draw(engine, 32, 32, seed=0)) == 1  # one slot too: the same rounding


def test_texts_that_end_make_room_for_others(engine: Engine, f32_gguf: Path, tmp_path: Path) -> None:
    ((common, _),) = Counter(chain(*draw(engine, 2000, 60, seed=0))).most_common(1)
    with Engine(changed(f32_gguf, tmp_path / "short.gguf", eos=common), cache_type="F32") as short:
        one, many = draw(short, 100, 100, seed=5), draw(short, 600, 100, seed=5)
    assert len(one) > 3  # one slot, used again and again
    assert len(many) > 6
    assert agreeing(one, many) >= len(one) - 1
    assert common not in chain(*one, *many)
    assert all(len(text) < 100 for text in one)
    assert 400 < sum(map(len, many)) < 800


def test_a_model_that_writes_nothing_is_one_clear_error(f32_gguf: Path, tmp_path: Path) -> None:
    sharp = changed(f32_gguf, tmp_path / "sharp.gguf", eos=1, sharper=1e4)
    with Engine(sharp) as engine:
        (logits,) = engine.logits(np.array([[engine.info.bos]], dtype=np.int32))
    with Engine(changed(sharp, tmp_path / "silent.gguf", eos=int(logits[0].argmax()))) as engine:
        with pytest.raises(EngineError, match="the model ends its texts at once: 0 tokens in 33 texts"):
            list(engine.sample(1000, length=20, seed=0))
        assert len(engine.tokenize("text"))


def test_seeds_are_apart() -> None:
    seeds = [_draw_seed(seed, index) for seed in (0, 1, -1, 2**32, 2**64 - 2, 10**30) for index in range(50)]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 0xFFFFFFFF for seed in seeds)
