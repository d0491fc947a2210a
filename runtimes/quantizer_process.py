"""The process that calls llama.cpp's quantizer; `runtimes.quantizer` starts it.

    python -m runtimes.quantizer_process < jobs.json

llama.cpp may abort the whole process on a bad file, so it never runs in the caller's. Standard
input is one JSON list of jobs (the fields of `Job`), standard output JSON lines: `{"log": text,
"level": number}` while a job runs and `{"rc": number}` after it. Jobs run one after another.

The arrays follow llama.cpp's tools/quantize/quantize.cpp, so the file is the same to the byte.
"""

from __future__ import annotations

import ctypes
import json
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

_INT, _STRING = 0, 3  # LLAMA_KV_OVERRIDE_TYPE_*
_TEXT_BYTES = 127


@dataclass(frozen=True)
class Job:
    """One call of the quantizer; types are llama.cpp's numbers, -1 for "not set"."""

    source: str
    target: str
    ftype: int
    imatrix: str | None = None
    tensor_types: list[tuple[str, int]] = field(default_factory=list)
    output_type: int = -1
    token_embedding_type: int = -1
    pure: bool = False
    threads: int = 0
    dry_run: bool = False

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def run_jobs(jobs: list[Job]) -> None:
    """Run the jobs, reporting on standard output."""
    import llama_cpp

    stdout = sys.stdout

    def tell(message: dict[str, Any]) -> None:
        stdout.write(json.dumps(message) + "\n")
        stdout.flush()

    @llama_cpp.llama_log_callback  # type: ignore[untyped-decorator, unused-ignore]
    def on_log(level: int, text: bytes, _: Any) -> None:
        tell({"log": text.decode("utf-8", "replace"), "level": level})

    llama_cpp.llama_log_set(on_log, ctypes.c_void_p(0))
    llama_cpp.llama_backend_init()
    for job in jobs:
        params, keep = _params(job)
        rc = llama_cpp.llama_model_quantize(
            job.source.encode(), job.target.encode(), ctypes.byref(params)
        )
        del keep
        tell({"rc": int(rc)})
    llama_cpp.llama_backend_free()


def _params(job: Job) -> tuple[Any, list[Any]]:
    """llama.cpp's parameter struct, and what must stay alive while it is used."""
    import llama_cpp

    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = job.ftype
    params.nthread = job.threads
    params.pure = job.pure
    params.dry_run = job.dry_run
    if job.output_type >= 0:
        params.output_tensor_type = job.output_type
    if job.token_embedding_type >= 0:
        params.token_embedding_type = job.token_embedding_type
    keep: list[Any] = []
    if job.tensor_types:
        rows = [(pattern.encode(), number) for pattern, number in job.tensor_types]
        rows.append((None, llama_cpp.GGML_TYPE_COUNT))  # type: ignore[arg-type]
        overrides = (llama_cpp.llama_model_tensor_override * len(rows))(*rows)
        params.tt_overrides = overrides
        keep.append(overrides)
    if job.imatrix:
        _add_imatrix(params, Path(job.imatrix), keep)
    return params, keep


def _add_imatrix(params: Any, path: Path, keep: list[Any]) -> None:
    import llama_cpp

    from runtimes.imatrix_file import read_imatrix

    imatrix = read_imatrix(path)
    values = imatrix.importances()
    float_pointer = ctypes.POINTER(ctypes.c_float)
    rows: list[Any] = [
        (name.encode(), array.ctypes.data_as(float_pointer), array.size)
        for name, array in values.items()
    ]
    rows.append((None, None, 0))
    data = (llama_cpp.llama_model_imatrix_data * len(rows))(*rows)
    # The file's name without its folder: a path would make the result depend on where it was made.
    notes: list[tuple[str, str | int]] = [("file", path.name)]
    if imatrix.datasets:
        notes.append(("dataset", imatrix.datasets[0]))
    notes.append(("entries_count", len(values)))
    if imatrix.chunk_count > 0:
        notes.append(("chunks_count", imatrix.chunk_count))
    overrides = (llama_cpp.llama_model_kv_override * (len(notes) + 1))()
    for row, (key, note) in zip(overrides, notes, strict=False):
        row.key = f"quantize.imatrix.{key}".encode()
        if isinstance(note, int):
            row.tag, row.value.val_i64 = _INT, note
        else:
            row.tag, row.value.val_str = _STRING, note.encode()[:_TEXT_BYTES]
    params.imatrix = data
    params.kv_overrides = overrides
    keep += [values, data, overrides]


if __name__ == "__main__":
    run_jobs([Job(**job) for job in json.load(sys.stdin)])
