"""Stage `imatrix`: which columns of each weight matrix matter, from a calibration text.

The mean squared input of each column, as llama-imatrix computes it, but from the torch model, so no
GGUF is needed; the file has llama.cpp's format and llama-quantize takes it too.
"""

from __future__ import annotations

import random
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pydantic import Field

from common.errors import UserError
from common.progress import progress_bar
from runtimes.imatrix_file import Imatrix, ImatrixEntry, write_imatrix
from toolchain import artifact as artifacts
from toolchain.artifact import Artifact
from toolchain.checkpoint.inspect import inspect
from toolchain.data.text import read_documents
from toolchain.export.gguf.input_sums import InputSums, watch
from toolchain.gguf_names import weight_names
from toolchain.hf import load_tokenizer, token_ids, torch_memory_bytes, torch_model
from toolchain.stage import Input, StageConfig

NAME = "imatrix"
VERSION = 1
TOOLS = ("torch", "transformers", "gguf")

FILE = "imatrix.gguf"
_FEWEST_TOKENS = 64


class Config(StageConfig):
    """`calibration` is text as `toolchain.data.text` reads it. Its documents are shuffled by
    `seed`, joined and cut into chunks of `context_tokens`, up to `max_tokens`."""

    calibration: Input
    max_tokens: int = Field(default=16384, ge=_FEWEST_TOKENS)
    context_tokens: int = Field(default=512, ge=16)
    seed: int = 0
    trust_remote_code: bool = False


def run(source: Artifact, config: Config, out_dir: Path) -> Artifact:
    """Compute the importance matrix of the checkpoint at `source.path` into `imatrix.gguf`.

    Raises `UserError` for too little text or memory and for activations that are not finite.
    """
    documents = read_documents(config.calibration.path, source.path)
    random.Random(config.seed).shuffle(documents)
    trust = config.trust_remote_code
    tokenizer = load_tokenizer(source.path, trust_remote_code=trust)
    chunks = token_chunks(tokenizer, documents, config.max_tokens, config.context_tokens)
    device = _device(source.path)
    with torch_model(source.path, device=device, trust_remote_code=trust) as model:
        found = _watched(model, chunks, weight_names(inspect(source.path)))
    if found.not_covered:
        shown = ", ".join(found.not_covered[:5])
        print(f"imatrix: no place in the GGUF for {shown}; left out", file=sys.stderr)
    tokens = sum(map(len, chunks))
    write_imatrix(
        out_dir / FILE,
        Imatrix(
            entries=_entries(found),
            chunk_count=max(1, tokens // config.context_tokens),
            chunk_size=config.context_tokens,
            datasets=[config.calibration.path.name],
        ),
    )
    return artifacts.describe(
        out_dir,
        format="imatrix",
        stage=NAME,
        config=config.model_dump(mode="json"),
        parents=[source.digest, config.calibration.digest],
        versions={name: version(name) for name in TOOLS},
        measurements={
            "tokens": tokens,
            "chunks": len(chunks),
            "tensors": len(found.sums),
            "not_covered": found.not_covered,
            "experts_without_tokens": _idle_experts(found),
            "device": device,
        },
    )


def _watched(model: Any, chunks: list[list[int]], gguf_name: Any) -> InputSums:
    """What goes into each weight matrix while the model reads the chunks."""
    import torch

    found = watch(model, gguf_name)
    with progress_bar("imatrix", unit="chunk", total=len(chunks)) as bar:
        for chunk in chunks:
            model(torch.tensor([chunk], device=model.device), use_cache=False)
            bar.update()
    return found


def token_chunks(
    tokenizer: Any, documents: list[str], max_tokens: int, context_tokens: int
) -> list[list[int]]:
    """The documents' tokens, joined and cut into chunks of at most `context_tokens`.

    Each document begins as the tokenizer begins a text (BOS), unless its text already does.
    """
    stream: list[int] = []
    bos = tokenizer.bos_token
    for document in documents:
        has_bos = bool(bos) and document.startswith(bos)
        stream += token_ids(tokenizer, document, add_special=not has_bos)
        if len(stream) >= max_tokens:
            break
    stream = stream[:max_tokens]
    if len(stream) < _FEWEST_TOKENS:
        raise UserError(
            f"the calibration text has {len(stream)} tokens, at least {_FEWEST_TOKENS} are needed",
            "give a longer text, some thousand tokens like those of the model's use",
        )
    starts = range(0, len(stream), context_tokens)
    chunks = [stream[start : start + context_tokens] for start in starts]
    # llama.cpp does not look at batches of fewer than 16 tokens either.
    return [chunk for chunk in chunks if len(chunk) >= 16]


def _device(checkpoint: Path) -> str:
    """The GPU when there is one with room for float32 weights."""
    import torch

    if not torch.cuda.is_available():
        return "cpu"
    wide_bytes, _ = torch_memory_bytes(inspect(checkpoint))
    return "cuda" if wide_bytes <= torch.cuda.mem_get_info()[0] else "cpu"


def _entries(found: InputSums) -> dict[str, ImatrixEntry]:
    import torch

    for name, sums in found.sums.items():
        if not torch.isfinite(sums).all():
            raise UserError(
                f"the model computes values that are not finite (inputs of {name})",
                "check the checkpoint's weights for NaN and Inf",
            )
    return {
        name: ImatrixEntry(sums=sums.float().numpy(), counts=found.counts[name].float().numpy())
        for name, sums in found.sums.items()
    }


def _idle_experts(found: InputSums) -> int:
    return sum(int((counts == 0).sum()) for counts in found.counts.values())
