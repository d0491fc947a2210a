"""Read an ONNX file as data, without running it; whatever is wrong with it is one `UserError`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from common.errors import UserError

if TYPE_CHECKING:
    from onnx import ModelProto


def read_model(file: Path, *, weights: bool = True) -> ModelProto:
    """The model with its tensors (or, without `weights`, the references to them).

    Raises `UserError` when the file or its external data are missing or cut short.
    """
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    faults = (DecodeError, OSError, ValueError, TypeError, RuntimeError, MemoryError)
    try:
        return onnx.load(file, load_external_data=weights)
    except (*faults, onnx.checker.ValidationError) as error:
        raise UserError(
            f"{file} cannot be read as ONNX: {str(error)[:200]}", "export it again"
        ) from None
