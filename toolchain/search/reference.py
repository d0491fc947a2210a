"""Stage `search-reference`: the unquantized original's logits on the text that ranks candidates."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

from pydantic import Field

from common.files import require_free_bytes
from toolchain import artifact as artifacts
from toolchain.artifact import Artifact
from toolchain.stage import Input, StageConfig

NAME = "search-reference"
VERSION = 1
TOOLS = ("llama-cpp-python",)
FORMAT = "search-reference"


class Config(StageConfig):
    """`text` is scored in chunks of `context_tokens`: at most `max_tokens` positions, and at most
    `max_logits_bytes` of logits; a longer text is sampled by `seed`."""

    text: Input
    max_tokens: int = Field(default=4096, ge=64)
    context_tokens: int = Field(default=512, ge=32)
    max_logits_bytes: int = 1_000_000_000
    seed: int = 0


def run(source: Artifact, config: Config, out_dir: Path) -> Artifact:
    """Run the GGUF in `source`, with an F16 KV cache. Raises `UserError` for a text that is too
    short or a disk that is too full."""
    from runtimes.llama import LlamaModel
    from toolchain.data.text import read_documents
    from toolchain.evaluate.chunks import choose_chunks
    from toolchain.evaluate.reference import save_reference

    with LlamaModel(source.only(".gguf"), context_tokens=config.context_tokens) as model:
        row_bytes = 4 * model.vocab_size
        documents = read_documents(config.text.path)
        chunks = choose_chunks(
            [model.tokenize(document, add_special=True) for document in documents],
            context_tokens=min(config.context_tokens, model.train_context_tokens),
            max_positions=min(config.max_tokens, config.max_logits_bytes // row_bytes),
            bos_token_id=model.bos_token_id,
            seed=config.seed,
        )
        require_free_bytes(out_dir, chunks.positions * row_bytes, "the search's reference")
        save_reference(out_dir, chunks, model.vocab_size, model.logits, {})
    return artifacts.describe(
        out_dir,
        format=FORMAT,
        stage=NAME,
        config=config.model_dump(mode="json"),
        parents=[source.digest, config.text.digest],
        versions={name: version(name) for name in TOOLS},
        measurements={"positions": chunks.positions, "chunks": len(chunks.tokens)},
    )
