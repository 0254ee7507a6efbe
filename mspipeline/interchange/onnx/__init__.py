"""Networks in ONNX files: `export` writes a graph with its weights, `reading` makes a graph of a file, foreign or ours.

Tensors in a file are channels first, (N, C, *spatial), the batch axis open; a graph's are channels last. Files are
written at opset 18, the first whose Resize takes sizes of the spatial axes alone, as an open batch axis needs; opsets
from 11 on are read.

May import: NumPy, onnx; `errors`, `files`, `network`. `onnx` is imported here alone, when a file is at hand.
"""

from mspipeline.interchange.onnx.export import to_onnx, write_onnx
from mspipeline.interchange.onnx.model import OPSET
from mspipeline.interchange.onnx.reading import Imported, read_onnx

__all__ = ["OPSET", "Imported", "read_onnx", "to_onnx", "write_onnx"]
