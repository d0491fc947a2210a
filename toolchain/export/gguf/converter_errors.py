"""What the official converter's last words mean, as one error with a mend."""

from __future__ import annotations

import re
from pathlib import Path

from common.errors import Told, UserError
from common.resources import lack_of_process

_UNSUPPORTED = re.compile(r"Model (\S+) is not supported")
_NOISE = re.compile(r"^(INFO|DEBUG|WARNING):|^\s*$|%\||^\s+File |^Traceback|^\s+[\^~]+")
_LAST_LINES = 3


def explain(checkpoint: Path, code: int, log: str, complaint: UserError | None) -> Told:
    """The error for a conversion that failed with this exit code and log; a `Lack` where the
    machine ran out of something, which is no fault of the checkpoint.

    `complaint` is what our own look at the tokenizer found; it is the cause when the converter does
    not know the tokenizer.
    """
    if lack := lack_of_process(code, log, f"converting {checkpoint}"):
        return lack
    if unsupported := _UNSUPPORTED.search(log):
        return UserError(
            f"architecture {unsupported[1]} is not known to llama.cpp's converter",
            "export a checkpoint of an architecture that llama.cpp supports, or take a newer "
            "llama-cpp-python once it does",
        )
    if "BPE pre-tokenizer was not recognized" in log:
        return complaint or UserError(
            f"llama.cpp's converter does not know the tokenizer in {checkpoint}, and there is no "
            "tokenizer.json to tell its structure",
            "save the tokenizer with transformers' save_pretrained, which writes tokenizer.json",
        )
    if code < 0:
        return UserError(f"llama.cpp's converter was killed by signal {-code}")
    if "trust_remote_code" in log:
        return UserError(
            f"{checkpoint} needs its own Python code to load, which is not run",
            "use a checkpoint of a standard architecture and tokenizer",
        )
    return UserError(f"llama.cpp's converter failed on {checkpoint}: {_last_words(log)}")


def _last_words(log: str) -> str:
    lines = [line.strip() for line in log.splitlines() if not _NOISE.search(line)]
    return " | ".join(lines[-_LAST_LINES:]) or "it left no message"
