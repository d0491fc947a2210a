"""Decode speed of GGUF files in llama.cpp on this machine, one against the other."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from common.errors import UserError
from common.scratch import ScratchFolder

if TYPE_CHECKING:
    from toolchain.artifact import Artifact
    from toolchain.pipeline import Workspace

_PROMPT_TOKENS, _TOKENS, _ROUNDS = 16, 32, 5


def decode_tokens_per_sec(files: Sequence[Path]) -> list[float]:
    """Median tokens a second of each file; the files take turns, so that other work on the machine
    meets all of them."""
    from runtimes.threads import idle_cores
    from runtimes.timed import TimedOptions
    from runtimes.timed_llama import LlamaDecoder

    options = TimedOptions(threads=idle_cores(), context_tokens=_PROMPT_TOKENS + _TOKENS + 16)
    decoders = [LlamaDecoder(path, options) for path in files]
    times: list[list[float]] = [[] for _ in files]
    try:
        for index in range(_ROUNDS + 1):
            for own, decoder in zip(times, decoders, strict=True):
                decoder.prefill(range(1, _PROMPT_TOKENS + 1))
                steps = decoder.decode(_TOKENS)
                if index:  # the first round warms up
                    own.extend(steps)
    finally:
        for decoder in decoders:
            decoder.close()
    return [1 / statistics.median(own) for own in times]


def quantized(
    checkpoints: Sequence[Artifact],
    file_type: str,
    workspace: Workspace,
    say: Callable[[str], None],
) -> list[Path]:
    """Each checkpoint as a GGUF of this type. Raises `UserError` where the architecture has none,
    or the type is none of llama.cpp's."""
    from toolchain.export.gguf import convert, quantize
    from toolchain.pipeline import run_stage

    found = []
    for checkpoint in checkpoints:
        whole = convert.Config(model_name=workspace.root.name)
        gguf = run_stage(convert, checkpoint, whole, workspace, say)
        wanted = quantize.Config(quantization=file_type)
        found.append(run_stage(quantize, gguf, wanted, workspace, say).only(".gguf"))
    return found


def checkpoint_speeds(folders: Sequence[Path], file_type: str) -> list[float] | None:
    """Tokens a second of each checkpoint in this type, in llama.cpp on this machine; None where it
    has no such file."""
    from toolchain.checkpoint.intake import open_checkpoint
    from toolchain.pipeline import Workspace

    with ScratchFolder("speed") as folder:
        sources = [open_checkpoint(path, None)[0] for path in folders]
        try:
            files = quantized(sources, file_type, Workspace(Path(folder)), lambda _line: None)
        except UserError:
            return None
        return [round(speed, 3) for speed in decode_tokens_per_sec(files)]
