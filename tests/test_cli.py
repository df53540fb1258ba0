"""The commands as a user runs them: what they print, and how they end."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from quantpress import cli, gguf
from quantpress.cli import app


def quantpress(*arguments: str | Path, code: int = 0, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "quantpress.cli", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    assert done.returncode == code, done.stderr
    return done


@pytest.fixture(scope="module")
def small_imatrix(bf16_gguf: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("imatrix") / "I.gguf"
    done = quantpress("imatrix", bf16_gguf, "--text", data / "prose.txt", "--out", out, "--chunks", "4")
    assert done.stdout.strip() == str(out)
    assert "imatrix: 4 chunks" in done.stderr
    return out


def test_help_names_every_command() -> None:
    text = quantpress("--help").stdout
    commands = (
        "convert imatrix plan quantize repair evaluate bench release check publish pull choose serve inspect info"
    )
    for command in commands.split():
        assert f"\n  {command} " in text


def test_convert(demo: Path, bf16_gguf: Path, tmp_path: Path) -> None:
    out = tmp_path / "demo.gguf"
    done = quantpress("convert", demo, out, "--quiet")
    assert (done.stdout.strip(), done.stderr) == (str(out), "")
    assert out.read_bytes() == bf16_gguf.read_bytes()
    quantpress("convert", demo, tmp_path / "f32.gguf", "--type", "F32")
    assert (tmp_path / "f32.gguf").stat().st_size > 1.9 * out.stat().st_size


def test_imatrix_show_and_merge(small_imatrix: Path, bf16_gguf: Path, tmp_path: Path) -> None:
    quantpress("imatrix", "merge", small_imatrix, small_imatrix, "-o", tmp_path / "twice.gguf")
    once, twice = (
        json.loads(quantpress("imatrix", "show", path, "--model", bf16_gguf, "--json").stdout)["statistics"]
        for path in (small_imatrix, tmp_path / "twice.gguf")
    )
    name = "blk.0.ffn_up.weight"
    assert (once[name]["tokens"], twice[name]["tokens"]) == (4 * 512, 8 * 512)
    assert once[name]["mean"] == pytest.approx(twice[name]["mean"])
    table = quantpress("imatrix", "show", small_imatrix, "--model", bf16_gguf).stdout
    assert name in table
    assert "every weight is covered" in table


def test_plan(bf16_gguf: Path, small_imatrix: Path, tmp_path: Path) -> None:
    found = json.loads(quantpress("plan", bf16_gguf, "--type", "iq3_m", "--imatrix", small_imatrix, "--json").stdout)
    assert {"bytes", "bits_per_weight", "tensors"} <= set(found)
    assert found["tensors"]["blk.0.attn_v.weight"] == "Q4_K"
    out = tmp_path / "plan.json"
    assert "bits a weight" in quantpress("plan", bf16_gguf, "--type", "Q4_K_M", "--out", out).stdout
    assert "^blk" in (tmp_path / "plan.tensor_types.txt").read_text()


def test_quantize_evaluate_inspect(bf16_gguf: Path, small_imatrix: Path, data: Path, tmp_path: Path) -> None:
    types = ("--type", "Q4_K_M", "--type", "IQ3_M")
    done = quantpress("quantize", bf16_gguf, *types, "--imatrix", small_imatrix, "--out", tmp_path, "--quiet")
    files = done.stdout.split()
    assert files == [str(tmp_path / f"demo-gemma3-{name}.gguf") for name in ("Q4_K_M", "IQ3_M")]

    text = ("--text", data / "prose.txt", "--context", "512", "--chunks", "2")
    rows = json.loads(quantpress("evaluate", bf16_gguf, *files, *text, "--json").stdout)
    keys = (
        "file tokens perplexity perplexity_error kld_mean kld_error kld_median kld_p90 kld_p95 kld_p99 kld_p999 "
        "kld_max same_top rms_dp"
    )
    assert [set(row) for row in rows] == [set(keys.split())] * 2
    assert rows[0]["kld_mean"] < rows[1]["kld_mean"]
    assert 0.5 < rows[0]["same_top"] <= 1

    seen = json.loads(quantpress("inspect", files[0], "--json").stdout)
    assert seen["types"]["Q4_K"]["tensors"] > 10
    assert seen["bytes"] == Path(files[0]).stat().st_size
    table = quantpress("inspect", files[0]).stdout
    assert "general.architecture" in table
    assert "bits a weight" in table


def test_info() -> None:
    found = json.loads(quantpress("info", "--json").stdout)
    assert {"version", "isa", "isas", "engine"} <= set(found)
    assert found["isa"] in found["isas"]
    assert "llama-cpp-python" in quantpress("info").stdout


def test_an_error_is_one_message_and_a_code(tmp_path: Path, bf16_gguf: Path, demo: Path) -> None:
    done = quantpress("plan", bf16_gguf, "--type", "Q9", code=2)
    assert done.stderr.startswith("quantpress: recipe: expected one of")
    assert "Traceback" not in done.stderr
    quantpress("plan", bf16_gguf, code=2)
    quantpress("inspect", tmp_path / "none.gguf", code=2)
    (tmp_path / "file").touch()
    quantpress("release", demo, "--out", tmp_path / "file" / "out", code=3)
    (tmp_path / "broken.gguf").write_bytes(bf16_gguf.read_bytes().replace(b"blk.3.ffn_up.", b"blk.3.ffn_xx."))
    text = tmp_path / "text.txt"
    text.write_text("word " * 2000)
    done = quantpress("imatrix", tmp_path / "broken.gguf", "--text", text, "-o", tmp_path / "i.gguf", code=4)
    assert "blk.3.ffn_up.weight" in done.stderr


@pytest.mark.parametrize(("filename", "message"), [("a.gguf", "a.gguf: Input/output error"), (None, "[Errno 5] Input")])
def test_an_error_of_the_system_is_one_message_too(
    filename: str | None, message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(path: Path) -> None:
        raise OSError(errno.EIO, "Input/output error", filename)

    monkeypatch.setattr("quantpress.inspection.inspect", fail)
    monkeypatch.setattr(sys, "argv", ["quantpress", "inspect", "a.gguf"])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 1
    assert capsys.readouterr().err.startswith(f"quantpress: {message}")


def test_names_that_are_no_utf8_can_be_printed(bf16_gguf: Path, tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"caf\xe9.gguf")
    path.symlink_to(bf16_gguf)
    assert "caf\\udce9.gguf: GGUF 3" in quantpress("inspect", path).stdout
    assert json.loads(quantpress("inspect", path, "--json").stdout)["file"] == str(path)


STEPS = ("convert", "imatrix", "quantize", "evaluate")


def interrupted_at(step: str | None, *arguments: str | Path) -> tuple[int, set[str], str]:
    """Run a command, press Ctrl-C when it says that the step begins; exit code, steps it began, its last line."""
    command = [sys.executable, "-m", "quantpress.cli", *map(str, arguments)]
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, **pipes, text=True, start_new_session=True) as process:
        alarm = threading.Timer(240, process.kill)
        alarm.start()
        lines = []
        for line in process.stderr or ():
            lines.append(line)
            if step is not None and line.startswith(step):
                process.send_signal(signal.SIGINT)
                step = None
        alarm.cancel()
    return process.returncode, {name for name in STEPS for line in lines if line.startswith(name)}, lines[-1].strip()


def test_ctrl_c_leaves_nothing_half_written_and_the_next_run_goes_on(demo: Path, data: Path, tmp_path: Path) -> None:
    """Interrupt a release in one step after the other, then let it get through."""
    out, text = tmp_path / "out", data / "prose.txt"
    options = ("--variants", "BF16,IQ2_XXS,Q6_K", "--calibration", text, "--evaluation", text)
    for done, step in enumerate([*STEPS[1:], None]):
        code, began, last = interrupted_at(step, "release", demo, "--out", out, *options)
        assert code == (0 if step is None else 130), last
        assert step is None or last == "quantpress: interrupted; the same command goes on where it was"
        assert began.isdisjoint(STEPS[:done])
        left = {path.name for path in out.rglob("*") if path.name.startswith(".") or path.suffix == ".partial"}
        assert left <= ({"demo-gemma3-imatrix.gguf.partial"} if step == "imatrix" else set())
        for path in out.glob("*.gguf"):
            gguf.read(path).close()
    assert "IQ2_XXS" in (out / "README.md").read_text()


def test_ctrl_c_in_a_command_that_starts_anew(bf16_gguf: Path, tmp_path: Path) -> None:
    code, _, last = interrupted_at("quantize", "quantize", bf16_gguf, "--type", "IQ4_XS", "--out", tmp_path)
    assert (code, last) == (130, "quantpress: interrupted; nothing half-written is left")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "arguments",
    [
        "SOURCE --calibration a b --evaluation c --out d",
        "--remote SOURCE --calibration a b --evaluation c --out d",
        "--calibration a --calibration b --evaluation c --out d SOURCE",
        "--out d --evaluation c --calibration a b SOURCE",
    ],
)
def test_an_option_takes_several_files(arguments: str, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[dict[str, Any]] = []
    module = sys.modules["quantpress.release"]  # by name it is the function
    monkeypatch.setattr(module, "release", lambda source, **given: calls.append({"source": source, **given}))
    CliRunner().invoke(app, ["release", *arguments.split()])
    [call] = calls
    assert str(call["source"]) == "SOURCE"
    assert list(map(str, call["calibration"])) == ["a", "b"]
    assert list(map(str, call["evaluation"])) == ["c"]


def test_an_unknown_instruction_set_is_the_users_error(bf16_gguf: Path, data: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "QUANTPRESS_ISA": "mmx"}
    collect = ("imatrix", bf16_gguf, "--text", data / "prose.txt", "-o", tmp_path / "I.gguf")
    for command in (("info",), collect):
        done = quantpress(*command, code=2, env=environment)
        assert "QUANTPRESS_ISA: expected one of" in done.stderr
        assert "found mmx" in done.stderr
