"""What crosses the pipe between the engine's two processes: pickled frames, each headed by its length.

Pickle is safe here: both ends are ours, and the pipe has no other writer.
"""

from __future__ import annotations

import pickle
import struct
from dataclasses import dataclass
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["ModelInfo", "Scores", "Settings", "Tokens", "receive", "send"]

_LENGTH = struct.Struct("<Q")

Tokens = NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Settings:
    """How the child loads the model; `gpu_layers` as in llama.cpp (-1: all); `resident`: its weights can be written.

    `layouts`: what weights may be repacked to, of `devices.Hardware.layouts`; `spinning`: threads wait busily.
    """

    model: str
    threads: int
    sequences: int
    gpu_layers: int
    cache_type: str
    vocab_only: bool = False
    resident: bool = False
    layouts: tuple[str, ...] = ()
    spinning: bool = False


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What the child knows of the model once it is loaded; token ids are -1 where there is none.

    `repacked`: the layouts that some of its weights were repacked to.
    """

    description: str
    vocab: int
    parameters: int
    context: int
    bos: int
    eos: int
    add_bos: bool
    chat_template: str | None
    repacked: tuple[str, ...]


class Scores(NamedTuple):
    """Of each scored position: -ln q(next token), KL(base ‖ q) in nats, and whether both have the same top token."""

    nll: NDArray[np.float64]
    kld: NDArray[np.float64]
    same_top: NDArray[np.bool_]


def send(stream: IO[bytes], message: Any) -> None:
    """Write one frame and flush it."""
    body = pickle.dumps(message, protocol=5)
    stream.write(_LENGTH.pack(len(body)))
    stream.write(body)
    stream.flush()


def receive(stream: IO[bytes]) -> Any:
    """Read one frame; raises EOFError where the other side is gone."""
    head = stream.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        raise EOFError
    (length,) = _LENGTH.unpack(head)
    body = stream.read(length)
    if len(body) < length:
        raise EOFError
    return pickle.loads(body)  # noqa: S301  (see the module's head)
