"""results.json: what was measured of each variant, on which bytes and which text.

A row is kept by a later run only if the file still has the bytes that were measured and the measurement would be the
same one; so every number on a card was measured on what is shipped.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from quantpress.files import write_json

__all__ = ["BASE", "Results"]

BASE = "base"  # the name of the unquantized model's own row
VERSION = 1


class Results:
    """The rows by variant; `facts` is what else results.json says. `protocol` is a digest of text and settings."""

    def __init__(self, path: Path, protocol: str) -> None:
        self.path, self.protocol = path, protocol
        self.facts: dict[str, Any] = {}
        self.rows: dict[str, dict[str, Any]] = {}
        if path.exists():
            try:
                saved = json.loads(path.read_text(encoding="utf-8"))
                self.rows = {BASE: saved[BASE], **saved["variants"]} if saved["protocol"] == protocol else {}
            except (ValueError, KeyError, TypeError):
                self.rows = {}  # damaged, or of another version: everything is measured again

    def keeps(self, name: str, sha256: Sequence[str]) -> bool:
        """Whether the row was measured on files with these hashes."""
        return self.rows.get(name, {}).get("sha256") == list(sha256)

    def enter(self, name: str, row: dict[str, Any], sha256: Sequence[str]) -> None:
        """Keep what was just measured on files with these hashes, and save."""
        self.rows[name] = {**row, "sha256": list(sha256)}
        self.save(list(self.rows))

    def save(self, names: Sequence[str]) -> dict[str, Any]:
        """Write the rows of these names, in this order, and return what was written."""
        variants = {name: self.rows[name] for name in names if name != BASE}
        values = {"version": VERSION, "protocol": self.protocol, **self.facts}
        values |= {BASE: self.rows.get(BASE), "variants": variants}
        write_json(self.path, values)
        return values
