"""What a timed run decodes, by llama-bench's definition; the layouts that weights get; the machine's description."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import llama_cpp.llama_cpp as llama
import pytest

from quantpress import quantize
from quantpress.convert import convert
from quantpress.engine import Engine, about, hardware, timing
from quantpress.engine.messages import Settings
from quantpress.engine.session import Session
from quantpress.errors import EngineError
from tests import checkpoints
from tests.convert.test_architectures import checkpoint


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("timing")
    return convert(checkpoints.tiny(folder / "checkpoint"), folder / "tiny-BF16.gguf")


@pytest.fixture(scope="module")
def session(tiny: Path) -> Iterator[Session]:
    """In this process, where its calls can be seen."""
    session = Session(Settings(str(tiny), 1, 1, 0, "F16"))
    yield session
    session.close()


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """The tokens of each batch that is decoded."""
    found: list[list[int]] = []
    decode = llama.llama_decode

    def record(context: Any, batch: Any) -> int:
        assert not batch.pos  # the next positions
        assert not batch.logits  # of the last token
        found.append(batch.token[: batch.n_tokens])
        return int(decode(context, batch))

    monkeypatch.setattr(llama, "llama_decode", record)
    return found


def test_a_prompt_is_read_in_batches_after_a_whole_warm_up(session: Session, decoded: list[list[int]]) -> None:
    seconds = list(timing.timing(session, "pp", 2050, 2))
    assert len(seconds) == 2
    assert min(seconds) > 0
    assert [len(batch) for batch in decoded] == [2048, 2] * 3
    bos = llama.llama_vocab_bos(session.vocab)
    assert [batch[0] for batch in decoded[::2]] == [bos] * 3
    assert len({tuple(batch) for batch in decoded[::2]}) == 3
    context = session.context
    assert llama.llama_n_ctx(context) == 2304  # 2,050 rounded up, by llama.cpp
    assert (llama.llama_n_batch(context), llama.llama_n_ubatch(context)) == (2048, 512)


def test_tokens_are_written_one_by_one_after_a_warm_up_of_one(session: Session, decoded: list[list[int]]) -> None:
    assert len(list(timing.timing(session, "tg", 3, 2))) == 2
    assert [len(batch) for batch in decoded] == [1] * 7
    bos = llama.llama_vocab_bos(session.vocab)
    assert [batch[0] for i, batch in enumerate(decoded) if i in (0, 1, 4)] == [bos] * 3


def test_every_run_begins_on_an_empty_cache(session: Session) -> None:
    list(timing.timing(session, "pp", 40, 3))
    assert llama.llama_memory_seq_pos_max(llama.llama_get_memory(session.context), 0) == 39


def test_a_failed_decode_is_an_error(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llama, "llama_decode", lambda context, batch: 1)
    with pytest.raises(EngineError, match="llama_decode failed with status 1 on 8 tokens"):
        list(timing.timing(session, "pp", 8, 1))


def test_a_model_that_embeds_texts_is_refused(tmp_path: Path) -> None:
    model = convert(checkpoint("bert", tmp_path), tmp_path / "bert.gguf")
    with Engine(model) as engine, pytest.raises(EngineError, match="nothing to sample, score or time"):
        list(engine.timing("pp", 8, repeats=1))


def test_the_machine_is_described_as_llama_cpp_does() -> None:
    found, system = hardware(), about()["system"]
    assert found.cpu
    for feature in found.features:
        assert f"{feature.replace('=', ' = ') if '=' in feature else f'{feature} = 1'} |" in f"{system} |"
    assert not {"OPENMP", "REPACK", "LLAMAFILE"} & set(found.features)


def test_weights_are_repacked_to_what_is_allowed(bf16_gguf: Path, tmp_path: Path) -> None:
    if "CPU_REPACK" not in hardware().layouts or not {"AVX2", "DOTPROD"} & set(hardware().features):
        pytest.skip("llama.cpp has no layout for Q4_0 on this machine")
    (packed,) = quantize(bf16_gguf, types=["Q4_0"], out=tmp_path)
    for file, layouts in ((packed, ("CPU_REPACK",)), (packed, ()), (bf16_gguf, ("CPU_REPACK",))):
        with Engine(file, layouts=layouts) as engine:
            assert engine.info.repacked == (layouts if file == packed else ())
            assert len(list(engine.timing("tg", 2, repeats=2))) == 2


def test_a_log_without_buffers_is_refused(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rather than taken for weights that were not repacked."""
    monkeypatch.setattr("quantpress.engine.session._BUFFER", re.compile(rb"(\S+) of another form"))
    with pytest.raises(EngineError, match="expected the buffers of the model, found none"):
        Session(Settings(str(tiny), 1, 1, 0, "F16", layouts=("NONE",)))
