"""Stage `encoder-loss`: what an encoder's quantized GGUF lost against the unquantized one.

Cosines of the texts' vectors with those that stage `encoder-parity` left.
"""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

from common.files import write_json
from runtimes.llama_embedder import LlamaEmbedder
from toolchain import artifact
from toolchain.artifact import Artifact
from toolchain.data.text import read_documents
from toolchain.encoder_kinds.pooling import pooling_of
from toolchain.evaluate.encoder_parity import VECTORS, short_texts
from toolchain.export.onnx.encoder_metrics import cosines, same_nearest
from toolchain.stage import Input, StageConfig

NAME = "encoder-loss"
VERSION = 1
TOOLS = ("llama-cpp-python",)
FORMAT = "quality"
RESULT = "evaluation.json"


class Config(StageConfig):
    """`reference` is the artifact of stage `encoder-parity`, `evaluation` its text."""

    reference: Input
    checkpoint: Input
    evaluation: Input


def run(source: Artifact, config: Config, out_dir: Path) -> Artifact:
    """Measure the GGUF in `source`."""
    import numpy as np

    from toolchain.hf import load_tokenizer

    file, checkpoint = source.only(".gguf"), config.checkpoint.path
    proof = artifact.load(config.reference.path)
    wanted = np.load(config.reference.path / VECTORS)
    max_tokens = int(proof.measurements["max_tokens"])
    tokenizer = load_tokenizer(checkpoint)
    documents = read_documents(config.evaluation.path, checkpoint)
    texts = short_texts(tokenizer, documents, max_tokens)[: len(wanted)]
    with LlamaEmbedder(file, max_tokens=max_tokens, pooling=pooling_of(checkpoint)) as model:
        found = model.embed(texts)
    apart = cosines(wanted, found)
    figures = {
        "cosine_mean": float(apart.mean()),
        "cosine_min": float(apart.min()),
        "same_nearest": same_nearest(wanted, found),
        "size_bytes": file.stat().st_size,
    }
    write_json(out_dir / RESULT, figures)
    return artifact.describe(
        out_dir,
        format=FORMAT,
        stage=NAME,
        config=config.model_dump(mode="json"),
        parents=[source.digest, config.reference.digest],
        versions={name: version(name) for name in TOOLS},
        measurements=figures,
    )
