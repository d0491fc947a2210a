"""Stage `probe`: a model at this point of a recipe against the original, on a little held-out text.

Perplexity, mean KLD (nats, the original is the reference) and top-1 agreement. A probe of the
original leaves its logits; a probe with `reference` compares with them. A model with another
vocabulary has a perplexity of its own tokens and no KLD.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from toolchain import artifact as artifacts
from toolchain.artifact import Artifact
from toolchain.evaluate.chunks import Chunks, choose_chunks
from toolchain.stage import Input, StageConfig

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from toolchain.models import OpenModel

NAME = "probe"
VERSION = 1
TOOLS = ("llama-cpp-python", "onnxruntime", "torch", "transformers")
FORMAT = "probe"
# Enough to tell a stage that hurt from one that did not; a whole evaluation costs several times it.
MAX_TOKENS, CONTEXT_TOKENS = 1024, 256
_SPARE_CONTEXT_TOKENS = 64


class Config(StageConfig):
    """`reference` is the probe of the original; `base` the checkpoint that an adapter belongs to,
    `text` what is scored: at most `max_tokens` of it, and at most `max_logits_bytes` of logits."""

    text: Input
    reference: Input | None = None
    base: Input | None = None
    max_tokens: int = Field(default=MAX_TOKENS, ge=64)
    context_tokens: int = Field(default=CONTEXT_TOKENS, ge=32)
    max_logits_bytes: int = 1_000_000_000
    trust_remote_code: bool = False


def run(source: Artifact, config: Config, out_dir: Path) -> Artifact:
    """Measure `source`: a checkpoint, an adapter, a GGUF or an ONNX decoder."""
    from toolchain.models import OpenOptions, open_model

    options = OpenOptions(
        context_tokens=config.context_tokens + _SPARE_CONTEXT_TOKENS,
        trust_remote_code=config.trust_remote_code,
        base=config.base.path if config.base else None,
    )
    with open_model(str(source.path), options) as model:
        chunks = _chunks(model, config)
        if config.reference is None:
            figures = _kept(model, chunks, out_dir)
        else:
            figures = _compared(model, chunks, config.reference.path)
    parents = [source.digest, config.text.digest]
    return artifacts.describe(
        out_dir,
        format=FORMAT,
        stage=NAME,
        config=config.model_dump(mode="json"),
        parents=parents + ([config.reference.digest] if config.reference else []),
        versions={tool: version(tool) for tool in TOOLS},
        measurements={**figures, "positions": chunks.positions},
    )


def _chunks(model: OpenModel, config: Config) -> Chunks:
    from toolchain.data.text import evaluation_text

    documents = evaluation_text(model.companion, config.text.path).documents
    row_bytes = model.runtime.vocab_size * 4
    return choose_chunks(
        [model.runtime.tokenize(text, add_special=True) for text in documents],
        context_tokens=min(config.context_tokens, model.context_tokens),
        max_positions=min(config.max_tokens, config.max_logits_bytes // row_bytes),
        bos_token_id=model.bos_token_id,
        seed=0,
    )


def _kept(model: OpenModel, chunks: Chunks, out_dir: Path) -> dict[str, Any]:
    """The original's own figures; its logits stay."""
    from toolchain.evaluate.reference import load_reference, save_reference

    save_reference(out_dir, chunks, model.runtime.vocab_size, model.runtime.logits, {})
    rows = load_reference(out_dir).logits
    perplexity, stderr = _perplexity(chunks, rows)
    return {**_figures(perplexity, stderr), "kld_mean": 0.0, "top1_agreement": 1.0}


def _compared(model: OpenModel, chunks: Chunks, reference: Path) -> dict[str, Any]:
    """Figures against the logits that the original left."""
    import numpy as np

    from toolchain.evaluate.logits import summarize
    from toolchain.evaluate.reference import load_reference

    stored = load_reference(reference)
    same = stored.tokens == chunks.tokens and stored.logits.shape[1] == model.runtime.vocab_size
    if not same:
        rows = np.concatenate([model.runtime.logits(chunk)[:-1] for chunk in chunks.tokens])
        perplexity, stderr = _perplexity(chunks, rows)
        return {**_figures(perplexity, stderr), "kld_mean": None, "top1_agreement": None}
    found = summarize(list(stored.compare(model.runtime.logits)))
    return {
        **_figures(found.perplexity, found.perplexity_stderr),
        "kld_mean": found.kld_mean,
        "top1_agreement": found.top1_agreement,
    }


def _perplexity(chunks: Chunks, rows: NDArray[np.float32]) -> tuple[float, float]:
    """Perplexity and its standard error from the logits `[positions, vocabulary]` of all chunks."""
    import numpy as np

    from toolchain.evaluate.logits import compare_positions, perplexity_of

    targets = np.concatenate([np.asarray(chunk[1:], np.int32) for chunk in chunks.tokens])
    return perplexity_of(compare_positions(rows, rows, targets).nll)


def _figures(perplexity: float, stderr: float) -> Mapping[str, Any]:
    return {"perplexity": perplexity, "perplexity_stderr": stderr}
