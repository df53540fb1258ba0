"""results.json: what was measured of each variant, on which bytes and which text.

A row is kept by a later run only if the file still has the bytes that were measured and the measurement would be the
same one (`protocol`: text, settings, base, versions); so every number on a card was measured on what is shipped.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from quantpress.files import digest, write_json

__all__ = ["BASE", "Results"]

BASE = "base"  # the name of the unquantized model's own row
VERSION = 1
_UNLISTED = "unlisted"  # rows of variants that are no part of this release, for a run that asks for them again


class Results:
    """The rows by variant; `facts` is what else results.json says."""

    def __init__(self, path: Path, protocol: Any) -> None:
        self.path, self.protocol = path, digest([VERSION, protocol])
        self.facts: dict[str, Any] = {}
        self.rows = self._read()

    def keeps(self, name: str, sha256: Sequence[str]) -> bool:
        """Whether the row was measured on files with these hashes."""
        return self.rows.get(name, {}).get("sha256") == list(sha256)

    def enter(self, name: str, row: dict[str, Any], sha256: Sequence[str]) -> None:
        """Keep what was just measured on files with these hashes, and save."""
        self.rows[name] = {**row, "sha256": list(sha256)}
        self.save(list(self.rows))

    def save(self, names: Sequence[str]) -> dict[str, Any]:
        """Write the rows of these variants, in this order, and the others apart; returns what was written."""
        variants = {name: self.rows[name] for name in names if name != BASE}
        unlisted = {name: row for name, row in self.rows.items() if name != BASE and name not in names}
        values = {"version": VERSION, "protocol": self.protocol, **self.facts}
        values |= {BASE: self.rows.get(BASE), "variants": variants, _UNLISTED: unlisted}
        write_json(self.path, values)
        return values

    def _read(self) -> dict[str, dict[str, Any]]:
        """The rows of the same protocol; none of a file that is damaged or measured otherwise."""
        try:
            saved = json.loads(self.path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        if not isinstance(saved, dict) or saved.get("protocol") != self.protocol:
            return {}
        groups = [saved.get(group) for group in ("variants", _UNLISTED)] + [{BASE: saved.get(BASE)}]
        rows = [item for group in groups if isinstance(group, dict) for item in group.items()]
        return {name: row for name, row in rows if isinstance(row, dict)}
