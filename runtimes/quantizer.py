"""llama.cpp's quantizer: the same bytes as llama-quantize, through llama-cpp-python's library.

It runs in a process of its own (`runtimes.quantizer_process`), because llama.cpp aborts on some bad
files. Its warnings are silent by default; here the log is kept and parsed.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

from common.errors import Told, UserError, near_names
from common.resources import explained_text, lack_of_process
from common.with_parent import with_parent
from runtimes.quantizer_process import Job

_ALIASES = {"Q3_K": "Q3_K_M", "Q4_K": "Q4_K_M", "Q5_K": "Q5_K_M"}
# Constants that the quantizer refuses as an output type ("invalid output file type").
_NO_OUTPUT = {"GUESSED", "NVFP4"}
_FTYPE = re.compile(r"LLAMA_FTYPE_(?:MOSTLY|ALL)_(\w+)")
_ERROR_LEVEL = 3
_TENSOR = re.compile(
    r"^\[\s*(?P<index>\d+)/\s*(?P<count>\d+)\]\s+(?P<name>\S+)\s+- \[(?P<shape>[\d, ]+)\], "
    r"type =\s*(?P<source>\w+), (?P<rest>.*)$"
)
_TARGET = re.compile(r"converting to (\w+)|MiB \((\w+)\)")
_FALLBACK = re.compile(
    r"warning: (?P<name>\S+)\s+- ncols\s+(?P<columns>\d+) not divisible by\s+(?P<block>\d+) "
    r"\(required for type\s+(?P<wanted>\w+)\).*falling back to\s+(?P<got>\w+)"
)

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class LoggedTensor:
    """What the log says of one tensor. `shape` in PyTorch's order; types as `Q4_K`."""

    name: str
    shape: tuple[int, ...]
    source_type: str
    target_type: str


@dataclass(frozen=True)
class Fallback:
    """A tensor whose row length (`columns`) is no multiple of the wanted type's `block`."""

    name: str
    columns: int
    block: int
    wanted: str
    got: str


@dataclass(frozen=True)
class QuantizeLog:
    """One run's log: every tensor, the fallbacks that llama.cpp named, and all lines."""

    tensors: tuple[LoggedTensor, ...]
    fallbacks: tuple[Fallback, ...]
    lines: tuple[str, ...]


def quantization_names() -> dict[str, int]:
    """Every type name that llama.cpp's quantizer takes, with llama.cpp's number for it."""
    import llama_cpp

    found = ((_FTYPE.fullmatch(name), name) for name in dir(llama_cpp))
    names = {hit[1]: int(getattr(llama_cpp, name)) for hit, name in found if hit}
    return {name: number for name, number in names.items() if name not in _NO_OUTPUT}


def canonical_quantization(name: str) -> str:
    """The type's exact name (`q4_k` is `Q4_K_M`). Raises `UserError` with near names."""
    known = quantization_names()
    upper = name.upper()
    upper = _ALIASES.get(upper, upper)
    if upper not in known:
        raise UserError(f"unknown quantization '{name}'", near_names(name, known))
    return upper


def tensor_type_number(name: str) -> int:
    """llama.cpp's number of a tensor type such as `Q6_K`. Raises `UserError` with near names."""
    import llama_cpp

    prefix = "GGML_TYPE_"
    known = {key.removeprefix(prefix) for key in dir(llama_cpp) if key.startswith(prefix)}
    known -= {"COUNT", "I8", "I16", "I32", "I64", "F64", "Q8_1", "Q8_K"}
    if name.upper() not in known:
        raise UserError(f"unknown tensor type '{name}'", near_names(name, known))
    return int(getattr(llama_cpp, prefix + name.upper()))


def quantize(
    source: Path,
    target: Path,
    quantization: str,
    *,
    imatrix: Path | None = None,
    tensor_types: Mapping[str, str] | None = None,
    output_type: str | None = None,
    token_embedding_type: str | None = None,
    pure: bool = False,
    threads: int = 0,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> QuantizeLog:
    """Quantize `source` into `target`, as llama-quantize with the same options.

    `tensor_types` maps regular expressions on GGUF tensor names to tensor types; `threads` 0 means
    all cores; `dry_run` computes the types and writes nothing. `progress` is called with a tensor's
    number, the count and its name. Raises `UserError` with llama.cpp's own words when it refuses.
    """
    overrides = (tensor_types or {}).items()
    job = Job(
        source=str(source),
        target=str(target),
        ftype=quantization_names()[canonical_quantization(quantization)],
        imatrix=str(imatrix) if imatrix else None,
        tensor_types=[(pattern, tensor_type_number(name)) for pattern, name in overrides],
        output_type=tensor_type_number(output_type) if output_type else -1,
        token_embedding_type=tensor_type_number(token_embedding_type)
        if token_embedding_type
        else -1,
        pure=pure,
        threads=threads,
        dry_run=dry_run,
    )
    return run_jobs([job], progress)[0]


def run_jobs(jobs: Sequence[Job], progress: Progress | None = None) -> list[QuantizeLog]:
    """Run the jobs in one further process. Raises `UserError` for the first that fails."""
    environment = dict(os.environ)
    packages = str(Path(__file__).resolve().parent.parent)
    environment["PYTHONPATH"] = os.pathsep.join(
        [packages, *filter(None, [os.environ.get("PYTHONPATH")])]
    )
    request = json.dumps([job.as_json() for job in jobs])
    with (
        tempfile.TemporaryFile("w+") as errors,
        subprocess.Popen(
            with_parent([sys.executable, "-P", "-m", "runtimes.quantizer_process"]),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=environment,
        ) as child,
    ):
        try:
            assert child.stdin and child.stdout  # pipes were asked for
            child.stdin.write(request)
            child.stdin.close()
            logs = [_read_log(child.stdout, job, progress) for job in jobs]
        except BaseException:
            child.kill()
            raise
        code = child.wait()
        if None in logs or code:
            errors.seek(0)
            last = [line.strip() for line in errors.read().splitlines() if line.strip()][-3:]
            failed = jobs[logs.index(None)] if None in logs else jobs[-1]
            if lack := lack_of_process(code, " ".join(last), f"quantizing {failed.source}"):
                raise lack
            raise UserError(
                f"llama.cpp's quantizer stopped (exit {code}) on {failed.source}: "
                + (" | ".join(last) or "no message"),
                "check that the file loads; a damaged file makes llama.cpp abort",
            )
    return [log for log in logs if log]


def _read_log(stream: IO[str], job: Job, progress: Progress | None) -> QuantizeLog | None:
    """One job's log; nothing when the process ended before the job did."""
    text = ""
    errors: list[str] = []
    for line in stream:
        message: dict[str, Any] = json.loads(line)
        if "rc" in message:
            if message["rc"]:
                raise _refusal(job, errors)
            return parse_log(text)
        text += message["log"]
        if message["level"] >= _ERROR_LEVEL and message["log"].strip(" .=\n"):
            errors.append(message["log"].strip())
        if progress and (hit := _TENSOR.match(message["log"].strip() + " ")):
            progress(int(hit["index"]), int(hit["count"]), hit["name"])
    return None


def _refusal(job: Job, errors: Sequence[str]) -> Told:
    said = "; ".join(errors[-2:]) or "no reason given"
    if lack := explained_text(said, f"quantizing {job.source}"):
        return lack
    mend = ""
    if "imatrix" in said or "importance matrix" in said:
        mend = "this type needs an importance matrix: leave imatrix on, or choose a larger type"
    elif "requantizing" in said:
        mend = "quantize from the F32, F16 or BF16 file, not from a quantized one"
    return UserError(f"llama.cpp cannot quantize {job.source}: {said}", mend)


def parse_log(text: str) -> QuantizeLog:
    """The facts in the quantizer's log."""
    lines = tuple(line for line in text.splitlines() if line.strip())
    fallbacks = []
    tensors = []
    for line in lines:
        if hit := _FALLBACK.search(line):
            columns, block = int(hit["columns"]), int(hit["block"])
            wanted, got = hit["wanted"].upper(), hit["got"].upper()
            fallbacks.append(Fallback(hit["name"], columns, block, wanted, got))
        elif hit := _TENSOR.match(line):
            tensors.append(_logged(hit))
    return QuantizeLog(tuple(tensors), tuple(fallbacks), lines)


def _logged(hit: re.Match[str]) -> LoggedTensor:
    sizes = [int(size) for size in hit["shape"].split(",")]
    while len(sizes) > 1 and sizes[-1] == 1:
        sizes.pop()
    tensor = LoggedTensor(hit["name"], tuple(reversed(sizes)), hit["source"].upper(), "")
    target = _TARGET.search(hit["rest"])
    name = (target[1] or target[2]).upper() if target else tensor.source_type
    return replace(tensor, target_type=name)
