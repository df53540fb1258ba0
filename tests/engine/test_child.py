"""Every way in which the engine's process can end, refuse or be misused: one clear error each."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest

import quantpress
from quantpress.chat import Template, render
from quantpress.children import python_command
from quantpress.engine import Engine, about, supervisor
from quantpress.engine.messages import receive
from quantpress.engine.worker import _send_error
from quantpress.errors import EngineError, TextError

CHUNKS = np.full((2, 16), 7, dtype=np.int32)


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


def test_two_operations_at_a_time_are_refused(bf16_gguf: Path) -> None:
    with Engine(bf16_gguf, sequences=1) as engine:
        expected = list(engine.logits(CHUNKS))
        running = engine.logits(CHUNKS)
        found = [next(running)]
        with pytest.raises(EngineError, match=r"BF16\.gguf: an operation is under way: .* before tokenize"):
            engine.tokenize("text")
        found += running
        np.testing.assert_array_equal(found, expected)
        assert len(engine.tokenize("text"))


def test_the_child_outlives_a_refusal(bf16_gguf: Path) -> None:
    """Twice the same: a context that could not be made must not be taken for one."""
    with Engine(bf16_gguf, sequences=1000) as engine:
        for _ in range(2):
            with pytest.raises(EngineError, match="cannot make a context of 1000 × 4 tokens"):
                list(engine.logits(np.zeros((1000, 4), dtype=np.int32)))
        assert len(list(engine.logits(CHUNKS))) == 2


def test_a_stopped_engine_does_not_go_on(bf16_gguf: Path) -> None:
    with Engine(bf16_gguf, sequences=1) as engine:
        running = engine.logits(CHUNKS)
        next(running)
    with pytest.raises(EngineError, match="was stopped"):
        next(running)


def test_no_process_is_one_clear_error(bf16_gguf: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(supervisor, "_COMMAND", [str(tmp_path / "no-python")])
        with pytest.raises(EngineError, match=r"BF16\.gguf: llama\.cpp's process cannot be started: .*no-python"):
            Engine(bf16_gguf)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    with pytest.raises(EngineError, match=r"cannot be started: .*missing"):
        Engine(bf16_gguf)


def test_a_child_that_closes_its_pipe_and_stays_is_ended(bf16_gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = "import os, time; os.close(1); time.sleep(60)"
    monkeypatch.setattr(supervisor, "_COMMAND", [sys.executable, "-c", code])
    monkeypatch.setattr(supervisor, "_LAST_SECONDS", 0.2)
    with pytest.raises(EngineError, match="closed its pipe without an answer"):
        Engine(bf16_gguf)


def test_an_error_that_cannot_cross_still_says_what_it_is(capfd: pytest.CaptureFixture[str]) -> None:
    error = TextError("a.txt", "text", found="nothing")
    replies = io.BytesIO()
    _send_error(replies, error)
    error.found = lambda: None
    _send_error(replies, error)
    replies.seek(0)
    (_, whole), (_, plain) = receive(replies), receive(replies)
    assert (type(whole), str(whole)) == (TextError, "a.txt: text: found nothing")
    assert (type(plain), str(plain)) == (EngineError, "TextError: a.txt: text: found nothing")
    assert "pickle" in capfd.readouterr().err


@pytest.fixture
def poisoned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder whose modules leave a trace when they are imported."""
    trace = tmp_path / "trace"
    for name in ("json", "llama_cpp", "numpy", "quantpress", "runpy"):
        (tmp_path / f"{name}.py").write_text(f"open({str(trace)!r}, 'w')\nraise SystemExit('poisoned')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(Path(quantpress.__file__).parents[1]))
    monkeypatch.delenv("PYTHONSAFEPATH", raising=False)
    return trace


def test_children_import_nothing_from_the_current_folder(poisoned: Path, bf16_gguf: Path) -> None:
    assert "llama_cpp" in about()
    with Engine(bf16_gguf) as engine:
        assert len(engine.tokenize("text"))
    assert render(Template(bf16_gguf, "{{ messages | tojson }}"), [[]]) == ["[]"]
    assert not poisoned.exists()


def test_the_trace_would_be_seen(poisoned: Path) -> None:
    subprocess.run([sys.executable, "-c", "import json"], capture_output=True, check=False)
    assert poisoned.exists()


def test_a_command_takes_arguments() -> None:
    command = python_command("print(sys.argv[1:])", "a", "b c")
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == "['a', 'b c']"
