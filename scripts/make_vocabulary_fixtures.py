"""Ask llama.cpp's own converter for the keys of the small vocabularies of tests/convert/vocabulary/cases.py.

    pip install torch transformers sentencepiece mistral-common
    PYTHONPATH=.:src:LLAMA_CPP:LLAMA_CPP/gguf-py python scripts/make_vocabulary_fixtures.py LLAMA_CPP VERSION

LLAMA_CPP is a llama.cpp source folder, VERSION what to call it. Writes tests/data/vocabulary/oracle.json. The converter
recognises a pre-tokenizer by a hash that no tiny vocabulary has, so it is told the name.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import gguf
import transformers
from tests.convert.oracle import kept
from tests.convert.vocabulary.cases import CASES, Case

OUT = Path(__file__).parents[1] / "tests" / "data" / "vocabulary" / "oracle.json"


def keys(case: Case, folder: Path) -> dict[str, Any]:
    """The tokenizer's keys that the class of the model writes; it is made without its tensors, which it would read."""
    import conversion.base  # here, as llama.cpp brings a package of tests of its own

    case.write(folder)
    conversion.base.TextModel.get_vocab_base_pre = lambda *_: case.pre
    model_class = conversion.get_model_class(case.architecture)
    model = object.__new__(model_class)
    model.dir_model = folder
    model.hparams = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    model.is_mistral_format, model.origin_hf_arch = False, case.architecture
    model.gguf_writer = gguf.GGUFWriter(folder / "out.gguf", "vocabulary")
    model.set_vocab()
    model.gguf_writer.write_header_to_file()
    model.gguf_writer.write_kv_data_to_file()
    model.gguf_writer.close()
    return {
        key: kept(field.types[0].name, field.types[1].name if len(field.types) > 1 else None, field.contents())
        for key, field in gguf.GGUFReader(folder / "out.gguf").fields.items()
        if key.startswith("tokenizer.") and key != "tokenizer.ggml.token_type_count"  # that one is BERT's
    }


def main() -> None:
    version = sys.argv[2]
    found: dict[str, Any] = {"llama.cpp": version, "transformers": transformers.__version__}
    with tempfile.TemporaryDirectory() as temporary:
        for name, case in CASES.items():
            found[name] = keys(case, Path(temporary) / name)
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(json.dumps(found, indent=0, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
