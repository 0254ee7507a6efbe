"""An ONNX file from the disk: whole, checked, its functions inlined, its weights in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mspipeline.errors import DataError
from mspipeline.interchange.onnx.model import load_onnx

OLDEST_OPSET = 11  # before it Resize, Pad and Clip take other arguments
AGAIN = "export it again"


def load_model(path: Path) -> Any:
    """The `onnx.ModelProto` in a file.

    Raises DataError where the file is missing, truncated, not ONNX, of an opset outside 11 to the installed onnx's,
    or lacks the files its weights lie in; BackendError without onnx.
    """
    onnx = load_onnx()
    from onnx.inliner import inline_local_functions

    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}), expected an ONNX file") from error
    try:
        model = onnx.load_from_string(data)
    except Exception as error:  # protobuf's own classes differ between its implementations
        raise DataError(f"{path}: truncated or not an ONNX file ({_line(error)}); {AGAIN}") from error
    if not model.opset_import or not model.graph.node:
        raise DataError(f"{path}: truncated or not an ONNX file (no opset, no nodes); {AGAIN}")
    _check_opset(onnx, path, model)
    _load_external(onnx, path, model)
    try:
        onnx.checker.check_model(model)
        return inline_local_functions(model) if model.functions else model
    except (onnx.checker.ValidationError, RuntimeError, ValueError) as error:
        raise DataError(f"{path}: not a valid ONNX file ({_line(error)}); {AGAIN}") from error


def _line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__


def _check_opset(onnx: Any, path: Path, model: Any) -> None:
    newest = onnx.defs.onnx_opset_version()
    (opset, *_) = [each.version for each in model.opset_import if each.domain in ("", "ai.onnx")] or [0]
    if opset == 0:
        raise DataError(f"{path}: uses none of ONNX's own operations; {AGAIN} without a vendor's format")
    if opset < OLDEST_OPSET:
        raise DataError(f"{path}: opset {opset} is too old, expected {OLDEST_OPSET} to {newest}; {AGAIN} at opset 18")
    if opset > newest:
        raise DataError(
            f"{path}: opset {opset} is newer than the installed onnx knows, expected {OLDEST_OPSET} to {newest}; "
            f"upgrade onnx or {AGAIN} at opset 18"
        )


def _load_external(onnx: Any, path: Path, model: Any) -> None:
    """Bring in weights that lie in files beside the model."""
    helper = onnx.external_data_helper
    outside = [tensor for tensor in model.graph.initializer if helper.uses_external_data(tensor)]
    if not outside:
        return
    locations = {helper.ExternalDataInfo(tensor).location for tensor in outside}
    if missing := sorted(name for name in locations if not (path.parent / name).is_file()):
        raise DataError(
            f"{path}: {len(outside)} weights lie in {', '.join(missing)}, not found beside it; copy that file to "
            f"{path.parent}, or {AGAIN} with the weights inside"
        )
    try:
        helper.load_external_data_for_model(model, str(path.parent))
    except (onnx.checker.ValidationError, OSError, ValueError, RuntimeError) as error:
        raise DataError(f"{path}: weights in {', '.join(sorted(locations))} cannot be read ({_line(error)})") from error
