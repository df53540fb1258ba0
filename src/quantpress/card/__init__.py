"""The model card: README.md and its translations, every number in them from results.json and release.json."""

from quantpress.card.page import pages, write_card
from quantpress.card.phrases import languages
from quantpress.card.rows import frontier, type_groups

__all__ = ["frontier", "languages", "pages", "type_groups", "write_card"]
