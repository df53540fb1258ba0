"""The engine on the demo model: batches, sampling, speed, and every way in which the child can end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from quantpress.engine import Engine, about
from quantpress.errors import EngineError


@pytest.fixture(scope="module")
def engine(bf16_gguf: Path) -> Iterator[Engine]:
    with Engine(bf16_gguf, cache_type="F32") as running:
        yield running


def test_info(engine: Engine) -> None:
    info = engine.info
    assert (info.vocab, info.bos, info.eos, info.add_bos, info.context) == (4096, 2, 1, True, 2048)
    assert info.parameters == 6_757_376
    assert info.chat_template is not None
    assert "<start_of_turn>" in info.chat_template


def test_a_batch_of_sequences_gives_what_each_gives_alone(engine: Engine) -> None:
    chunks = np.random.default_rng(0).integers(6, 4096, size=(3, 96), dtype=np.int32)
    together = np.stack(list(engine.logits(chunks)))
    alone = np.concatenate([list(engine.logits(chunks[i : i + 1])) for i in range(3)])
    assert together.shape == (3, 96, 4096)
    np.testing.assert_allclose(together, alone, atol=2e-2 * alone.std())


def test_text_survives_a_round_trip(engine: Engine) -> None:
    text = "It was a bright cold day — “naïve” 日本 \U0001f600\n\n  done."
    tokens = engine.tokenize(text)
    assert tokens[0] == engine.info.bos
    assert engine.detokenize(tokens) == text


def test_special_tokens_are_read_only_on_request(engine: Engine) -> None:
    assert 4 in engine.tokenize("<start_of_turn>", parse_special=True)
    assert 4 not in engine.tokenize("<start_of_turn>")


def test_samples_are_repeatable_and_differ_by_seed(engine: Engine) -> None:
    def draw(seed: int) -> list[list[int]]:
        return [tokens.tolist() for _, tokens in sorted(engine.sample(300, length=60, seed=seed), key=lambda x: x[0])]

    first = draw(1)
    assert first == draw(1)
    assert first != draw(2)
    assert 200 <= sum(map(len, first)) <= 400
    assert all(len(tokens) <= 60 for tokens in first)


def test_sampled_text_is_the_models_own(engine: Engine) -> None:
    """At temperature 1 the mean negative log-likelihood of samples is the model's entropy: far below that of noise."""
    sample = max((tokens for _, tokens in engine.sample(256, length=128, seed=0)), key=len)
    window = np.concatenate([[engine.info.bos], sample]).astype(np.int32)[None]
    logits = np.concatenate(list(engine.logits(window)))[:-1].astype(np.float64)
    logits -= logits.max(axis=1, keepdims=True)
    scores = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    assert -scores[np.arange(len(sample)), sample].mean() < 5.5  # uniform noise: ln 4096 = 8.3


def test_timing_counts_what_it_says(engine: Engine) -> None:
    found = engine.timing(prompt=64, generate=8, repeats=2)
    assert (found.prompt, found.generate) == (64, 8)
    assert len(found.prompt_seconds) == len(found.generate_seconds) == 2
    assert all(seconds > 0 for seconds in (*found.prompt_seconds, *found.generate_seconds))


def test_a_killed_child_is_one_clear_error(bf16_gguf: Path) -> None:
    with Engine(bf16_gguf) as engine:
        os.kill(engine.child.pid, signal.SIGKILL)
        with pytest.raises(
            EngineError, match=r"demo-gemma3-BF16\.gguf: llama\.cpp's process was killed by SIGKILL"
        ) as error:
            engine.tokenize("text")
        assert "last lines of its log" in str(error.value)


def test_a_crash_in_the_middle_is_one_clear_error(bf16_gguf: Path) -> None:
    with Engine(bf16_gguf) as engine:
        samples = engine.sample(2000, length=20, seed=0)
        next(samples)
        os.kill(engine.child.pid, signal.SIGSEGV)
        with pytest.raises(EngineError, match="SIGSEGV"):
            list(samples)


def test_an_abandoned_operation_ends_the_child(bf16_gguf: Path) -> None:
    with Engine(bf16_gguf) as engine:
        samples = engine.sample(2000, length=20, seed=0)
        next(samples)
        samples.close()
        assert engine.child.process.poll() is not None
        with pytest.raises(EngineError, match="was stopped"):
            engine.tokenize("text")


def test_no_model_is_one_clear_error(tmp_path: Path) -> None:
    path = tmp_path / "broken.gguf"
    path.write_bytes(b"GGUF" + bytes(60))
    with pytest.raises(
        EngineError, match=r"(?s)broken\.gguf: llama\.cpp cannot load this model.*last lines of its log"
    ):
        Engine(path)


def test_a_missing_tensor_is_named(bf16_gguf: Path, tmp_path: Path) -> None:
    path = tmp_path / "renamed.gguf"
    path.write_bytes(bf16_gguf.read_bytes().replace(b"blk.3.ffn_up.weight", b"blk.3.ffn_xx.weight"))
    with pytest.raises(EngineError, match=r"blk\.3\.ffn_up\.weight"):
        Engine(path)


def test_the_parent_never_loads_the_library(bf16_gguf: Path) -> None:
    """In a process of its own: other tests load it to compare with."""
    script = (
        "import sys; from pathlib import Path; from quantpress import Engine\n"
        "with Engine(sys.argv[1]) as engine: engine.tokenize('text')\n"
        "assert 'libllama' not in Path('/proc/self/maps').read_text()"
    )
    if not Path("/proc/self/maps").exists():
        pytest.skip("needs /proc")
    subprocess.run([sys.executable, "-c", script, bf16_gguf], check=True)


def test_about_names_the_build() -> None:
    found = about()
    assert found["llama_cpp_python"].count(".") == 2
    assert "CPU" in found["system"]
