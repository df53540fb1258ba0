"""What llama.cpp itself would choose: `llama_model_quantize` in its dry-run mode, in a process of its own.

The types are read from its log, as a person would: there is no other way out. Run as a module it takes jobs as JSON on
standard input; `dry_runs` and `file_type_names` are the ways to call it.
"""

from __future__ import annotations

import ctypes
import json
import re
import subprocess
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

_TENSOR = re.compile(r"^\[ *\d+/ *\d+\] +(\S+) +- \[.*?\], type = +(\w+), size = [^(\n]*(?:\((\w+)\))?$", re.MULTILINE)
_BITS = re.compile(r"quant size .*\((\d+\.\d\d) BPW\)")
_FALLBACKS = re.compile(r"(\d+) of \d+ tensor\(s\) required fallback")


@dataclass(frozen=True)
class Job:
    """One dry run; types by name, `types` as `--tensor-type` would give them."""

    file_type: int
    imatrix: bool = False
    embedding: str | None = None
    output: str | None = None
    types: list[tuple[str, str]] = field(default_factory=list)


@dataclass(frozen=True)
class Choice:
    """What llama.cpp said: nothing but `error` if it refused."""

    tensors: dict[str, str]
    bits: float = 0.0  # a weight, to two places
    fallbacks: int = 0
    needs_imatrix: bool = False
    error: str = ""


def dry_runs(model: Path, jobs: list[Job]) -> list[Choice]:
    """The choices of llama.cpp for one model."""
    return [Choice(**choice) for choice in _asked({"model": str(model), "jobs": [asdict(job) for job in jobs]})]


def quantized(model: Path, out: Path, job: Job) -> Path:
    """A model that llama.cpp quantized."""
    (choice,) = _asked({"model": str(model), "jobs": [asdict(job)], "out": str(out)})
    assert not choice.get("error"), choice
    return out


def file_type_names(count: int) -> list[str]:
    """What llama.cpp calls the file types 0 … count - 1."""
    names: list[str] = _asked({"names": count})
    return names


def _asked(request: dict[str, Any]) -> Any:
    command, root = [sys.executable, "-m", __name__], Path(__file__).parents[2]
    done = subprocess.run(command, input=json.dumps(request), capture_output=True, text=True, cwd=root, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def answer(request: dict[str, Any]) -> Any:
    """What the child process prints."""
    import llama_cpp

    if "names" in request:
        return [llama_cpp.llama_ftype_name(number).decode() for number in range(request["names"])]
    return [run(request["model"], job, request.get("out")) for job in request["jobs"]]


def parsed(log: str) -> dict[str, Any]:
    """The choices in a log."""
    tensors = {name: (new or old).upper() for name, old, new in _TENSOR.findall(log)}
    bits, fallbacks = _BITS.search(log), _FALLBACKS.search(log)
    assert tensors, log[-2000:]
    assert bits, log[-2000:]
    return {
        "tensors": tensors,
        "bits": float(bits[1]),
        "fallbacks": int(fallbacks[1]) if fallbacks else 0,
        "needs_imatrix": "will require an imatrix" in log,
    }


def run(model: str, job: dict[str, Any], out: str | None) -> dict[str, Any]:
    """One run in this process, dry without `out`."""
    import llama_cpp
    from gguf import GGMLQuantizationType

    log: list[bytes] = []
    callback = llama_cpp.llama_log_callback(lambda level, text, data: log.append(text))
    llama_cpp.llama_log_set(callback, ctypes.c_void_p(0))
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype, params.dry_run = job["file_type"], out is None
    if job["embedding"]:
        params.token_embedding_type = GGMLQuantizationType[job["embedding"]]
    if job["output"]:
        params.output_tensor_type = GGMLQuantizationType[job["output"]]
    one = ctypes.c_float(1.0)
    entry, imatrix_end = llama_cpp.llama_model_imatrix_data(b"any", ctypes.pointer(one), 1), (None, None, 0)
    if job["imatrix"]:  # what it holds does not matter for the types
        params.imatrix = (llama_cpp.llama_model_imatrix_data * 2)(entry, imatrix_end)
    overrides = [(pattern.encode(), GGMLQuantizationType[type]) for pattern, type in job["types"]]
    if overrides:
        params.tt_overrides = (llama_cpp.llama_model_tensor_override * (len(overrides) + 1))(*overrides, (None, 0))
    failed = llama_cpp.llama_model_quantize(model.encode(), (out or "").encode(), params)
    text = b"".join(log).decode()
    if failed:
        return {"tensors": {}, "error": text[-2000:]}
    return {} if out else parsed(text)


if __name__ == "__main__":
    print(json.dumps(answer(json.loads(sys.stdin.read()))))
