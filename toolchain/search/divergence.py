"""Stage `search-kld`: a candidate's KLD to the unquantized original, with its own KV-cache type."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

from common.errors import UserError
from toolchain import artifact as artifacts
from toolchain.artifact import Artifact
from toolchain.stage import Input, StageConfig

NAME = "search-kld"
VERSION = 1
TOOLS = ("llama-cpp-python",)
FORMAT = "search-kld"


class Config(StageConfig):
    """`reference` is the artifact of stage `search-reference`."""

    reference: Input
    kv_cache_type: str = "f16"


def run(source: Artifact, config: Config, out_dir: Path) -> Artifact:
    """Compare the GGUF in `source`. Raises `UserError` when it has another vocabulary, or values
    that are not finite."""
    from runtimes.llama import LlamaModel
    from toolchain.evaluate.logits import summarize
    from toolchain.evaluate.reference import load_reference

    reference = load_reference(config.reference.path)
    context = max(map(len, reference.tokens))
    file = source.only(".gguf")
    with LlamaModel(file, context_tokens=context, kv_cache_type=config.kv_cache_type) as model:
        if model.vocab_size != reference.facts["vocab_size"]:
            raise UserError(
                f"{file.name} has {model.vocab_size} tokens, the original "
                f"{reference.facts['vocab_size']}"
            )
        found = summarize(list(reference.compare(model.logits)))
    return artifacts.describe(
        out_dir,
        format=FORMAT,
        stage=NAME,
        config=config.model_dump(mode="json"),
        parents=[source.digest, config.reference.digest],
        versions={name: version(name) for name in TOOLS},
        measurements=found.as_json(),
    )
