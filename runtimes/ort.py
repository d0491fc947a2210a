"""Open ONNX files in onnxruntime on the CPU: settings in one place, faults in plain words.

    session = open_session(Path("model.onnx"), SessionSettings(threads=1))
    outputs = session.run(None, inputs)

Whatever is wrong with a file (cut short, external data missing, an operator or version that this
onnxruntime does not have) becomes one `UserError`; a session is never half open.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common.errors import UserError
from common.in_use import note
from runtimes.threads import idle_cores

PROVIDERS = ("CPUExecutionProvider",)
_FATAL_ONLY = 4  # onnxruntime's log severity: faults are raised, not also printed
_AGAIN = "export it again, or copy the whole folder again"
_NEWER = "install the onnxruntime that requirements.lock names (make setup)"
_MISSING_DATA = re.compile(r"path does not exist: \"?([^\"\n]+?)\"?(?:\s|$)")
_NO_OPERATOR = re.compile(r"(?:error: |No Op registered for )([\w.:]+)(?:\(-?\d+\))?")


@dataclass(frozen=True)
class SessionSettings:
    """How a session computes. `threads` None is as many as there are idle cores.

    `spinning` lets idle threads poll for work: faster where cores are free, slower where they are
    shared. `entries` are onnxruntime's own session config entries.
    """

    threads: int | None = None
    spinning: bool = True
    entries: Mapping[str, str] = field(default_factory=dict)


def open_session(file: Path, settings: SessionSettings | None = None) -> Any:
    """An `onnxruntime.InferenceSession` of `file` on the CPU.

    Raises `UserError` when the file is missing, cut short or no ONNX model, when external data are
    missing or too short, and when it needs an operator or a version that is not there.
    """
    import onnxruntime as ort

    chosen = settings or SessionSettings()
    if not file.is_file():
        raise UserError(f"ONNX file {file} is missing", _AGAIN)
    note("onnxruntime", file)
    try:
        options = session_options(chosen)
        return ort.InferenceSession(str(file), options, providers=list(PROVIDERS))
    except Exception as error:  # onnxruntime's exceptions share no base of their own
        if isinstance(error, UserError):
            raise
        raise explain(file, str(error)) from None


def session_options(settings: SessionSettings) -> Any:
    """`onnxruntime.SessionOptions` of the settings."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = _FATAL_ONLY
    options.intra_op_num_threads = settings.threads or idle_cores()
    options.inter_op_num_threads = 1
    spinning = "1" if settings.spinning else "0"
    options.add_session_config_entry("session.intra_op.allow_spinning", spinning)
    for key, value in settings.entries.items():
        options.add_session_config_entry(key, value)
    return options


def run_session(
    session: Any, file: Path, inputs: Mapping[str, Any], names: Sequence[str] | None = None
) -> list[Any]:
    """The session's outputs for `inputs`, all or those of `names`.

    Raises `UserError` when a kernel refuses the inputs.
    """
    try:
        outputs: list[Any] = session.run(list(names) if names else None, dict(inputs))
    except Exception as error:
        raise explain(file, str(error)) from None
    return outputs


def explain(file: Path, message: str) -> UserError:
    """The error for what onnxruntime said of `file`."""
    words = " ".join(message.split())
    if "INVALID_PROTOBUF" in words or "No graph was found" in words:
        return UserError(f"{file} is cut short or is no ONNX model", _AGAIN)
    if missing := _MISSING_DATA.search(message):
        name = Path(missing[1]).name
        return UserError(f"{file} lacks its external data {name}", f"{name} belongs beside it")
    if "out of bounds or can not be read" in words or "External initializer" in words:
        return UserError(f"the external data of {file} are cut short or of another file", _AGAIN)
    if "is not a registered function/op" in words or "No Op registered" in words:
        found = _NO_OPERATOR.search(message)
        name = found[1] if found else "it uses"
        return UserError(f"{file} needs operator {name}, which this onnxruntime lacks", _NEWER)
    if "IR version" in words or "official rel" in words or "NOT_IMPLEMENTED" in words:
        return UserError(f"{file} is too new for this onnxruntime: {_tail(words)}", _NEWER)
    if "Failed to allocate" in words or "bad_alloc" in words:
        return UserError(
            f"not enough memory to run {file}", "close other programs, or shorten the context"
        )
    return UserError(f"onnxruntime cannot run {file}: {_tail(words)}", _AGAIN)


def model_bytes(file: Path) -> int:
    """Size of an ONNX file with the external data beside it."""
    beside = file.parent.glob(f"{file.name}*.data")
    return file.stat().st_size + sum(path.stat().st_size for path in beside)


def _tail(words: str) -> str:
    """The message without onnxruntime's prefix and places in its source."""
    return words.rpartition(" failed:")[2][-300:]
