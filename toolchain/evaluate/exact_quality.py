"""Stage `exact-quality`: what blocks of a model's own, or moved scales, gain against plain
quantization.

KLD to the unquantized model of both, the weights dequantized from the blocks that the file holds or
would hold (plain: by the importance matrix, in llama.cpp's own mix), on held-out text of the
kinds learned from and on text of another kind. It runs in torch; the runtime's own rounding of
activations comes on top and is measured on the exported file by stage `quality`.
"""

from __future__ import annotations

import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from common.errors import UserError
from common.files import write_json
from common.strict import Strict
from toolchain import artifact as artifacts
from toolchain.artifact import Artifact
from toolchain.checkpoint.inspect import inspect
from toolchain.compress.exact.settings import Mix
from toolchain.compress.exact.sidecar import read_plan
from toolchain.data.text import read_documents
from toolchain.evaluate.chunks import Chunks, choose_chunks
from toolchain.evaluate.logits import Comparison, summarize
from toolchain.evaluate.parity import torch_logits
from toolchain.evaluate.reference import open_logits, write_logits
from toolchain.hf import load_tokenizer, token_ids, torch_model
from toolchain.stage import Input, StageConfig

NAME = "exact-quality"
VERSION = 3
TOOLS = ("llama-cpp-python", "torch", "transformers")
FORMAT = "quality"
RESULT = "exact.json"
EXACT, PLAIN = "exact", "plain"
NEAR, FAR = "near", "far"
_KINDS = {NEAR: "held out, of the kinds learned from", FAR: "another kind"}
_MADE = {
    "distill": "trained in its blocks",
    "gptq": "rounded by calibration",
    "awq": "with its scales moved",
}


class Text(Strict):
    """A text to measure on. `kind` says whether text like it was learned from (near)."""

    name: str
    kind: Literal["near", "far"]
    file: Input


class Scaled(Strict):
    """How a checkpoint without blocks of its own is quantized, and its importance matrix."""

    mix: Mix
    imatrix: Input


class Config(StageConfig):
    """`base` is the unquantized checkpoint, `imatrix` its importance matrix (for the plain
    weights); `scaled` is for a source that has no blocks of its own. At most `max_tokens` positions
    of each text are scored."""

    base: Input
    imatrix: Input
    scaled: Scaled | None = None
    texts: tuple[Text, ...] = Field(min_length=1)
    max_tokens: int = Field(default=4096, ge=16)
    context_tokens: int = Field(default=512, ge=8)
    seed: int = 0
    trust_remote_code: bool = False


def run(source: Artifact, config: Config, out_dir: Path) -> Artifact:
    """Measure. `kept` is `exact` (the source), or `plain` where a text has a lower KLD so. Raises
    `UserError` for a checkpoint without blocks of its own of which nothing is said."""
    start = time.perf_counter()
    mix: Mix | None = config.scaled.mix if config.scaled else read_plan(source.path)
    if mix is None:
        raise UserError(f"{source.path} was not made of the blocks of a file")
    with tempfile.TemporaryDirectory(dir=out_dir) as folder:
        found = _compared(source, config, mix, Path(folder))
    rows = [
        {
            "name": text.name,
            "kind": text.kind,
            "digest": text.file.digest,
            "tokens": exact.positions,
            **{f"plain_{key}": value for key, value in _figures(plain).items()},
            **{f"exact_{key}": value for key, value in _figures(exact).items()},
            "kld_ratio": exact.kld_mean / plain.kld_mean if plain.kld_mean else None,
        }
        for text, plain, exact in zip(config.texts, found[PLAIN], found[EXACT], strict=True)
    ]
    worse = any(e.kld_mean > p.kld_mean for p, e in zip(found[PLAIN], found[EXACT], strict=True))
    figures = {
        "quantization": mix.label,
        "maker": source.stage,
        "texts": rows,
        "kept": PLAIN if worse else EXACT,
    }
    write_json(out_dir / RESULT, figures)
    return artifacts.describe(
        out_dir,
        format=FORMAT,
        stage=NAME,
        config=config.model_dump(mode="json"),
        parents=[
            source.digest,
            *(config.base.digest, config.imatrix.digest),
            *((config.scaled.imatrix.digest,) if config.scaled else ()),
            *(text.file.digest for text in config.texts),
        ],
        versions={tool: version(tool) for tool in TOOLS},
        measurements={**figures, "wall_sec": round(time.perf_counter() - start, 3)},
    )


def told(measured: Artifact) -> list[str]:
    """The figures in lines for people."""
    facts = measured.measurements
    lines = [
        f"{facts['quantization']} {_MADE[facts['maker']]}: KLD {row['exact_kld']:.5f}, plain "
        f"{row['plain_kld']:.5f}, on {row['tokens']} tokens of {row['name']} "
        f"({_KINDS[row['kind']]})"
        for row in facts["texts"]
    ]
    if facts["kept"] == PLAIN:
        lines.append(
            "warning: on one text that is worse than plain quantization with an importance matrix, "
            "so the plain file is kept; learn longer, or from more kinds of text"
        )
    return lines


def _figures(compared: Comparison) -> dict[str, float]:
    return {
        "kld": compared.kld_mean,
        "kld_stderr": compared.kld_stderr,
        "perplexity": compared.perplexity,
        "top1_agreement": compared.top1_agreement,
    }


def _compared(
    source: Artifact, config: Config, mix: Mix, folder: Path
) -> dict[str, list[Comparison]]:
    """Plain and exact weights against the base's logits, which lie on disk meanwhile."""
    chunks = _chunks(config)
    trust = config.trust_remote_code
    with torch_model(config.base.path, trust_remote_code=trust) as network:
        vocab = int(network.get_output_embeddings().weight.shape[0])
        for number, own in enumerate(chunks):
            write_logits(folder / f"{number}.f32", own, vocab, lambda c: torch_logits(network, c))
        references = [
            open_logits(folder / f"{number}.f32", own, vocab) for number, own in enumerate(chunks)
        ]
        _make_plain(network, config.base.path, config.imatrix, mix)
        plain = [summarize(list(r.compare(lambda c: torch_logits(network, c)))) for r in references]
    with torch_model(source.path, trust_remote_code=trust) as network:
        if config.scaled:
            _make_plain(network, source.path, config.scaled.imatrix, mix)
        exact = [summarize(list(r.compare(lambda c: torch_logits(network, c)))) for r in references]
    return {PLAIN: plain, EXACT: exact}


def _chunks(config: Config) -> list[Chunks]:
    tokenizer = load_tokenizer(config.base.path, trust_remote_code=config.trust_remote_code)
    context = inspect(config.base.path).context_tokens or config.context_tokens
    return [
        choose_chunks(
            [
                token_ids(tokenizer, document, add_special=True)
                for document in read_documents(text.file.path, config.base.path)
            ],
            context_tokens=min(config.context_tokens, context),
            max_positions=config.max_tokens,
            bos_token_id=tokenizer.bos_token_id,
            seed=config.seed,
        )
        for text in config.texts
    ]


def _make_plain(network: Any, checkpoint: Path, imatrix: Input, mix: Mix) -> None:
    """The network's weights as plain quantization with the importance matrix leaves them."""
    from runtimes.imatrix_file import read_imatrix
    from toolchain.compress.exact.rounding import rounded
    from toolchain.compress.exact.types import block_types
    from toolchain.export.gguf.imatrix import FILE as IMATRIX_FILE
    from toolchain.gguf_names import weight_names

    info = inspect(checkpoint)
    importances = read_imatrix(imatrix.path / IMATRIX_FILE).importances()
    gguf_name = weight_names(info)
    parameters = dict(network.named_parameters())
    types = block_types(
        info,
        network,
        mix.quantization,
        with_imatrix=True,
        tensor_types=mix.tensor_types,
        pure=mix.pure,
    )
    for name, kind in types.items():
        importance = importances.get(gguf_name(name) or "")
        parameters[name].data = rounded(parameters[name].data, kind, importance)
