"""Stage `encoder-parity`: prove that an encoder's unquantized GGUF is the checkpoint's embedding
model.

Gates: token ids of real and of awkward texts, and the vectors of texts against torch in float32.
A gate that fails raises `ParityError`. What passes leaves the file's own vectors behind, for stage
`encoder-loss`.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.files import write_json
from runtimes.llama_embedder import LlamaEmbedder
from toolchain import artifact
from toolchain.artifact import Artifact
from toolchain.data.text import read_documents
from toolchain.encoder_kinds import checkpoint as checkpoint_kind
from toolchain.encoder_kinds.pooling import pooling_of
from toolchain.evaluate.awkward import AWKWARD_TEXTS
from toolchain.evaluate.gate import Gate, require
from toolchain.evaluate.tokens import token_gate
from toolchain.export.onnx.encoder_metrics import cosines
from toolchain.hf import load_tokenizer
from toolchain.models import OpenOptions
from toolchain.stage import Input, StageConfig

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

NAME = "encoder-parity"
VERSION = 1
TOOLS = ("llama-cpp-python", "torch", "transformers")
FORMAT = "parity"
RESULT, VECTORS = "parity.json", "vectors.npy"
_MOST_TEXTS = 256
_MEND = (
    "convert again from this checkpoint; if it stays, llama.cpp computes this architecture in "
    "another way: export ONNX"
)


class Config(StageConfig):
    """`evaluation` is text with documents parted by `<|document|>` lines. `min_cosine` is that of a
    text's vector with torch's."""

    checkpoint: Input
    evaluation: Input
    min_cosine: float = 0.9999
    max_tokens: int = 512
    trust_remote_code: bool = False


def run(source: Artifact, config: Config, out_dir: Path) -> Artifact:
    """Prove the GGUF in `source`; raises `ParityError` when a gate fails."""
    import numpy as np

    file, checkpoint = source.only(".gguf"), config.checkpoint.path
    tokenizer = load_tokenizer(checkpoint, trust_remote_code=config.trust_remote_code)
    texts = read_documents(config.evaluation.path, checkpoint)[:_MOST_TEXTS]
    options = OpenOptions(
        context_tokens=config.max_tokens, trust_remote_code=config.trust_remote_code
    )
    with checkpoint_kind.open_path(checkpoint, options) as original:
        max_tokens = original.max_tokens
        short = short_texts(tokenizer, texts, max_tokens)
        wanted = original.engine.embed(short)
    with LlamaEmbedder(
        file, max_tokens=max_tokens, pooling=pooling_of(checkpoint), exact=True
    ) as model:
        gates = [token_gate(tokenizer, model.model, texts, awkward=AWKWARD_TEXTS)]
        require(file.name, gates)
        found = model.embed(short)
    gates.append(vector_gate(wanted, found, config.min_cosine))
    require(file.name, gates)
    np.save(out_dir / VECTORS, found)
    measurements = {
        "gates": [gate.as_json() for gate in gates],
        "texts": len(short),
        "max_tokens": max_tokens,
    }
    write_json(out_dir / RESULT, measurements)
    return artifact.describe(
        out_dir,
        format=FORMAT,
        stage=NAME,
        config=config.model_dump(mode="json"),
        parents=[source.digest, config.checkpoint.digest, config.evaluation.digest],
        versions={name: version(name) for name in TOOLS},
        measurements=measurements,
    )


def vector_gate(wanted: NDArray[np.float32], found: NDArray[np.float32], min_cosine: float) -> Gate:
    """The least cosine of a text's vector with its own reference."""
    least = float(cosines(wanted, found).min())
    detail = f"least cosine with torch's vectors of {len(wanted)} texts"
    return Gate("vectors", least, min_cosine, least >= min_cosine, detail, _MEND)


def short_texts(tokenizer: Any, texts: Sequence[str], max_tokens: int) -> list[str]:
    """Those that are not cut."""
    return [t for t in texts if len(tokenizer(t, verbose=False)["input_ids"]) <= max_tokens]
