"""The parent's side of llama.cpp: the same operations as `worker.OPS`, with types."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantpress.cpu import default_threads, instruction_set
from quantpress.engine.inputs import Collected, Input, Range, Seen
from quantpress.engine.messages import ModelInfo, Scores, Settings, Tokens
from quantpress.engine.supervisor import Child

__all__ = ["Engine"]


class Engine:
    """A model in a llama.cpp child process; use it as a context manager.

    Args:
        model: a GGUF file that llama.cpp loads.
        threads: CPU threads, default all cores.
        sequences: windows that may be decoded together.
        gpu_layers: layers to keep on a GPU, -1 for all.
        cache_type: type of the KV cache, F16 (llama.cpp's default) or F32.
        vocab_only: load the tokenizer alone.
        resident: load the weights into memory of their own, where `assign` can change them.
        layouts: what weights may be repacked to for the CPU, of `hardware().layouts`; by default they are as in the
            file, which computes the same on more machines and gives what is measured for damage.
        spinning: let threads that wait for others keep their cores, as llama.cpp's programs do: faster on an idle
            machine, many times slower on a busy one.

    Every method raises EngineError, with llama.cpp's last log lines, if the child dies or refuses.
    """

    def __init__(
        self,
        model: str | Path,
        *,
        threads: int | None = None,
        sequences: int = 4,
        gpu_layers: int = 0,
        cache_type: str = "F16",
        vocab_only: bool = False,
        resident: bool = False,
        layouts: tuple[str, ...] = (),
        spinning: bool = False,
    ) -> None:
        instruction_set()  # a wrong QUANTPRESS_ISA is the user's error, not the child's
        threads = threads or default_threads()
        load = Settings(str(model), threads, sequences, gpu_layers, cache_type, vocab_only, resident, layouts, spinning)
        self.child = Child(load)
        try:
            self.info: ModelInfo = self._one("describe")
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the child process."""
        self.child.stop()

    def assign(
        self,
        types: Mapping[str, str],
        *,
        imatrix: Path | None = None,
        encoder: str = "quantpress",
        effort: str = "normal",
        moments: Path | None = None,
        plain: Collection[str] = (),
    ) -> None:
        """Make the weights in memory those of a file whose tensors have these types: see `resident.assign`.

        Needs `resident=True`. A tensor that is not named is what it is in the model's file: no types, the float model.
        """
        files = {
            name: None if path is None else str(path) for name, path in (("imatrix", imatrix), ("moments", moments))
        }
        how = {"encoder": encoder, "effort": effort, "plain": list(plain), **files}
        for _ in self.child.ask("assign", types=dict(types), **how):
            pass  # it yields nothing

    def put(self, name: str, data: NDArray[np.uint8]) -> None:
        """Write a tensor's rows anew, in the type that it has in the file: see `resident.put`."""
        for _ in self.child.ask("put", name=name, data=data):
            pass  # it yields nothing

    def rows(self, chunks: Tokens, name: str, *, stop: bool = False) -> Iterator[NDArray[np.float32]]:
        """The input [rows, cols] of a weight, of each of int32 chunks [n, length]: see `rows.rows`."""
        return self.child.ask("rows", chunks=chunks, name=name, stop=stop)

    def tokenize(self, text: str, *, add_special: bool = True, parse_special: bool = False) -> Tokens:
        """Token ids, int32 [n]; `add_special` adds what the tokenizer adds, `parse_special` reads `<…>` in the text."""
        tokens: Tokens = self._one("tokenize", text=text, add_special=add_special, parse_special=parse_special)
        return tokens

    def detokenize(self, tokens: Tokens) -> str:
        """The text of token ids [n], special tokens left out."""
        return str(self._one("detokenize", tokens=tokens))

    def logits(self, chunks: Tokens) -> Iterator[NDArray[np.float32]]:
        """float32 [length, vocab] of each window of int32 chunks [n, length]."""
        return self.child.ask("logits", chunks=chunks)

    def activations(
        self, chunks: Tokens, *, every: int = 16, process_output: bool = False
    ) -> Iterator[tuple[int, dict[str, tuple[NDArray[Any], NDArray[np.int64]]]]]:
        """Sums of squared activations of int32 chunks [n, length].

        Yields (chunks done, {weight: (sums [matrices, cols], counts int64 [matrices])}) after about `every` chunks,
        with the sums since the last item.
        """
        return self.child.ask("activations", chunks=chunks, every=every, process_output=process_output)

    def inputs(self, window: Tokens, *, process_output: bool = False) -> list[Input]:
        """What the weights are multiplied with, found with int32 tokens [n], at most 512: see `moments.inputs`."""
        found: list[Input] = self._one("inputs", window=window, process_output=process_output)
        return found

    def moments(
        self,
        chunks: Tokens,
        *,
        held_out: Sequence[int],
        wanted: Sequence[Range],
        sample: int,
        every: int = 16,
        squares: bool = False,
        process_output: bool = False,
        stop: bool = False,
    ) -> Iterator[tuple[int, dict[str, tuple[NDArray[Any], NDArray[np.int64]]]] | dict[str, Seen] | Collected]:
        """Second moments of inputs over int32 chunks [n, length]: see `moments.moments`."""
        return self.child.ask(
            "moments",
            chunks=chunks,
            held_out=held_out,
            wanted=wanted,
            sample=sample,
            every=every,
            squares=squares,
            process_output=process_output,
            stop=stop,
        )

    def record(self, chunks: Tokens, first: int, distributions: Path | None) -> Iterator[Scores]:
        """Score int32 chunks [n, length] from position `first` on; write the distributions for `score` to a file.

        Yields the scores [length - first - 1] of each chunk; see `scoring.record`.
        """
        return self.child.ask("record", chunks=chunks, first=first, distributions=distributions)

    def score(self, chunks: Tokens, first: int, distributions: Path) -> Iterator[Scores]:
        """As `record`, compared with what another model recorded for the same chunks; see `scoring.score`."""
        return self.child.ask("score", chunks=chunks, first=first, distributions=distributions)

    def sample(self, tokens: int, *, length: int = 512, seed: int = 0) -> Iterator[tuple[int, Tokens]]:
        """Text that the model writes: see `generate.sample`."""
        return self.child.ask("sample", tokens=tokens, length=length, seed=seed)

    def timing(self, kind: str, tokens: int, *, repeats: int) -> Iterator[float]:
        """Seconds of each run of a test of speed: see `timing.timing`."""
        return self.child.ask("timing", kind=kind, tokens=tokens, repeats=repeats)

    def _one(self, op: str, **arguments: Any) -> Any:
        items = list(self.child.ask(op, **arguments))
        return items[-1]
