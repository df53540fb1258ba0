"""The oracle: `llama_model_quantize` of the library that llama-cpp-python installs, in a process of its own or in ours.

Run as a module it takes one `Job` a line as JSON on standard input; `run` and `running` are the ways to call it.
`run_here` shares with our encoder the grids of the IQ types, which take long to make: seven seconds those of IQ1.
"""

from __future__ import annotations

import ctypes
import functools
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tests.oracle.memory import peak

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Job:
    """One call; file types and tensor types by llama.cpp's numbers, `types` as pairs of pattern and type."""

    source: str
    out: str
    file_type: int
    imatrix: str | None = None  # an .npz file: float32 values by the tensor's name
    embedding: int | None = None
    output: int | None = None
    types: list[tuple[str, int]] = field(default_factory=list)
    threads: int = 2
    allow_requantize: bool = False


@dataclass(frozen=True)
class Result:
    """`status` is 0 if all went well; `seconds` of the call alone, `peak` resident bytes of the process so far."""

    status: int
    seconds: float
    peak: int
    log: str


@contextmanager
def running(jobs: Sequence[Job]) -> Iterator[Callable[[], list[Result]]]:
    """The jobs, one after another in one process meanwhile; the value waits for their results."""
    text = "".join(json.dumps(asdict(job)) + "\n" for job in jobs)
    command = [sys.executable, "-m", __spec__.name]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, **pipes, text=True, cwd=ROOT) as process, ThreadPoolExecutor(1) as pool:
        answer = pool.submit(process.communicate, text)

        def results() -> list[Result]:
            out, error = answer.result()
            assert process.returncode == 0, error[-2000:]
            return [Result(**json.loads(line)) for line in out.splitlines()]

        try:
            yield results
        finally:
            process.kill()


def run(jobs: Sequence[Job]) -> list[Result]:
    """The results of the jobs."""
    with running(jobs) as results:
        return results()


def run_here(jobs: Sequence[Job]) -> list[Result]:
    """The results of the jobs, made in this process: only for jobs that are known to end well."""
    return [_quantize(job) for job in jobs]


def save_imatrix(path: Path, values: Mapping[str, np.ndarray]) -> str:
    """What `Job.imatrix` takes."""
    np.savez(path, **{name: np.ascontiguousarray(found, np.float32) for name, found in values.items()})
    return str(path)


def _quantize(job: Job) -> Result:
    import llama_cpp

    log, _ = _log()
    log.clear()
    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.ftype, parameters.nthread = job.file_type, job.threads
    parameters.allow_requantize = job.allow_requantize
    if job.embedding is not None:
        parameters.token_embedding_type = job.embedding
    if job.output is not None:
        parameters.output_tensor_type = job.output
    values = dict(np.load(job.imatrix)) if job.imatrix else {}
    if values:
        parameters.imatrix = _entries(llama_cpp, values)
    if job.types:
        kind = llama_cpp.llama_model_tensor_override
        overrides = (kind * (len(job.types) + 1))(*(kind(pattern.encode(), type) for pattern, type in job.types))
        parameters.tt_overrides = overrides
    start = time.perf_counter()
    status = llama_cpp.llama_model_quantize(job.source.encode(), job.out.encode(), ctypes.byref(parameters))
    seconds = time.perf_counter() - start
    return Result(status, seconds, peak(), b"".join(log[-30:]).decode(errors="replace"))


@functools.cache
def _log() -> tuple[list[bytes], Any]:
    """What llama.cpp logs from now on, and the callback, which has to live as long as it is set."""
    import llama_cpp

    log: list[bytes] = []
    callback = llama_cpp.llama_log_callback(lambda level, text, data: log.append(text))
    llama_cpp.llama_log_set(callback, ctypes.c_void_p(0))
    return log, callback


def _entries(llama_cpp: Any, values: dict[str, np.ndarray]) -> Any:
    """A null-terminated array; it borrows the memory of `values`."""
    kind = llama_cpp.llama_model_imatrix_data
    floats = ctypes.POINTER(ctypes.c_float)
    entries = [kind(name.encode(), found.ctypes.data_as(floats), found.size) for name, found in values.items()]
    return (kind * (len(entries) + 1))(*entries)


if __name__ == "__main__":
    for line in sys.stdin:
        given = json.loads(line)
        print(json.dumps(asdict(_quantize(Job(**given)))), flush=True)
