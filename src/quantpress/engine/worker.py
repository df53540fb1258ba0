"""The child: loads the model once, then runs the operations that it is asked for, until its input ends.

An operation is a generator `op(session, **arguments)`; each item it yields is sent as it comes.
"""

from __future__ import annotations

import os
import pickle
import sys
import traceback
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

from quantpress.engine.activations import activations
from quantpress.engine.generate import sample
from quantpress.engine.messages import receive, send
from quantpress.engine.moments import inputs, moments
from quantpress.engine.resident import assign, put
from quantpress.engine.rows import rows
from quantpress.engine.scoring import record, score
from quantpress.engine.session import Session, describe, detokenize, logits, tokenize
from quantpress.engine.timing import timing
from quantpress.errors import EngineError, QuantpressError

OPS: dict[str, Callable[..., Iterator[Any]]] = {
    "activations": activations,
    "assign": assign,
    "describe": describe,
    "detokenize": detokenize,
    "inputs": inputs,
    "logits": logits,
    "moments": moments,
    "put": put,
    "record": record,
    "rows": rows,
    "sample": sample,
    "score": score,
    "timing": timing,
    "tokenize": tokenize,
}


def main() -> None:
    """Serve the parent over standard input and output."""
    requests, replies = _streams()
    session: Session | None = None
    try:
        settings = receive(requests)
        while True:
            op, arguments = receive(requests)
            try:
                session = session or Session(settings)
                for item in OPS[op](session, **arguments):
                    send(replies, ("item", item))
            except QuantpressError as error:
                _send_error(replies, error)
            except Exception as error:
                traceback.print_exc()
                send(replies, ("error", EngineError(f"{type(error).__name__}: {error}")))
            else:
                send(replies, ("done", None))
    except (EOFError, BrokenPipeError):
        return  # the parent is finished with us


def _send_error(replies: BinaryIO, error: QuantpressError) -> None:
    """Send an error with its parts, or its message alone where a part of it cannot cross to the parent."""
    try:
        send(replies, ("error", error))
    except (pickle.PicklingError, TypeError, AttributeError):  # pickle has refused before a byte was written
        traceback.print_exc()
        send(replies, ("error", EngineError(f"{type(error).__name__}: {error}")))


def _streams() -> tuple[BinaryIO, BinaryIO]:
    """Our two pipes; whatever else writes to standard output goes to the log."""
    requests, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    return requests, replies
