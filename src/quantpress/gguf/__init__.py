"""GGUF files: read with suspicion, written atomically, laid out before a byte is written."""

from quantpress.gguf.layout import Layout, TensorSpec, layout
from quantpress.gguf.parser import Tensor
from quantpress.gguf.reader import GGUF, read
from quantpress.gguf.split import Part, part_paths, split_plan
from quantpress.gguf.values import Metadata, Value, ValueType
from quantpress.gguf.writer import Writer, folder_writer, outline

__all__ = [
    "GGUF",
    "Layout",
    "Metadata",
    "Part",
    "Tensor",
    "TensorSpec",
    "Value",
    "ValueType",
    "Writer",
    "folder_writer",
    "layout",
    "outline",
    "part_paths",
    "read",
    "split_plan",
]
