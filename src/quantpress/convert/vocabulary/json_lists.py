"""Lists of objects in JSON files."""

from __future__ import annotations

from collections.abc import Iterator

from quantpress.checkpoint import Section

__all__ = ["objects"]


def objects(section: Section, key: str) -> Iterator[Section]:
    """The items of a list as sections; raises CheckpointError for one that is no object."""
    for entry in section.items(key):
        if not isinstance(entry, dict):
            raise section.error(key, "a list of objects", entry)
        yield Section(section.path, entry, f"{section.name}.{key}" if section.name else key)
