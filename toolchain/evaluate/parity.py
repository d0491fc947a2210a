"""Stage `parity`: prove that an unquantized GGUF is the model that the checkpoint is.

Gates, each with its figure: token ids, rendered chat prompt, stop tokens, and logits against torch
in float32 (the file then runs with an F32 KV cache and without flash attention). A gate that fails
raises `ParityError`, so nothing is written. What passes leaves the unquantized file's logits on
the evaluation text behind, computed as the file runs on a device (F16 KV cache), for stage
`quality`.
"""

from __future__ import annotations

import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pydantic import Field

from common.files import require_free_bytes, write_json
from runtimes.llama import LlamaModel
from toolchain import artifact
from toolchain.artifact import Artifact
from toolchain.data.text import read_documents
from toolchain.evaluate.awkward import AWKWARD_TEXTS
from toolchain.evaluate.chunks import Chunks, choose_chunks
from toolchain.evaluate.gate import Gate, require
from toolchain.evaluate.logits import Comparison, summarize
from toolchain.evaluate.prompt import answer_end, prompt_gate
from toolchain.evaluate.reference import open_logits, save_reference, write_logits
from toolchain.evaluate.tokens import extra_stop_ids, stop_gate, token_gate
from toolchain.hf import end_token_ids, load_tokenizer, torch_model
from toolchain.stage import Input, StageConfig

NAME = "parity"
VERSION = 2
TOOLS = ("llama-cpp-python", "torch", "transformers")
FORMAT = "parity"
RESULT = "parity.json"
_FLOAT32_BYTES = 4


class Config(StageConfig):
    """`evaluation` is text with documents parted by `<|document|>` lines (or a `.jsonl` of such).

    `adapter` (as peft saved it) and `adapter_file` (its GGUF) are on top of the model: what is
    compared is base plus adapter.
    `max_tokens` and `max_reference_bytes` (tokens x vocabulary x 4) cap the positions that logits
    are compared on; `max_text_bytes` caps the text whose token ids are compared.
    """

    checkpoint: Input
    evaluation: Input
    evaluation_name: str = ""
    max_tokens: int = Field(4096, ge=1)
    max_reference_bytes: int = Field(1_000_000_000, ge=1)
    max_text_bytes: int = Field(4_000_000, ge=1)
    context_tokens: int = Field(512, ge=8)
    kv_cache_type: str = "f16"
    min_top1_agreement: float = 0.999
    max_kld: float = 1e-4
    seed: int = 0
    trust_remote_code: bool = False
    adapter: Input | None = None
    adapter_file: Input | None = None


def run(source: Artifact, config: Config, out_dir: Path) -> Artifact:
    """Prove the GGUF in `source` against the checkpoint; raises `ParityError` when a gate fails."""
    file = source.only(".gguf")
    tokenizer = load_tokenizer(config.checkpoint.path, trust_remote_code=config.trust_remote_code)
    documents = capped(
        read_documents(config.evaluation.path, config.checkpoint.path), config.max_text_bytes
    )
    with LlamaModel(file, context_tokens=64) as model:
        ends = end_token_ids(config.checkpoint.path, tokenizer)
        gates = [
            token_gate(tokenizer, model, [*documents, *AWKWARD_TEXTS]),
            prompt_gate(tokenizer, model),
            stop_gate(ends, tokenizer, model, answer_end(tokenizer)),
        ]
        require(file.name, gates)
        vocab_size, train_context = model.vocab_size, model.train_context_tokens
        stops = {"end_ids": sorted(ends), "extra_stop_ids": extra_stop_ids(ends, model)}
        chunks = choose_chunks(
            [model.tokenize(document, add_special=True) for document in documents],
            context_tokens=min(config.context_tokens, train_context),
            max_positions=max_positions(config, vocab_size),
            bos_token_id=model.bos_token_id,
            seed=config.seed,
        )
    require_free_bytes(out_dir, 2 * chunks.positions * vocab_size * _FLOAT32_BYTES, "parity")
    exact = _against_torch(file, config, chunks, vocab_size, out_dir)
    gates += _logit_gates(exact, config)
    require(file.name, gates)
    evaluation = evaluation_facts(config, documents, chunks)
    _write_reference(file, config, chunks, vocab_size, evaluation, out_dir)
    measurements = {
        "gates": [gate.as_json() for gate in gates],
        "evaluation": evaluation,
        "stop": stops,
        "logits": exact.as_json(),
        "torch": perplexity_facts(exact.reference_perplexity, exact.reference_perplexity_stderr),
        "unquantized_exact": perplexity_facts(exact.perplexity, exact.perplexity_stderr),
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


def _against_torch(
    file: Path, config: Config, chunks: Chunks, vocab_size: int, out_dir: Path
) -> Comparison:
    """Torch's logits go to disk first, so that only one of the two models is in memory."""
    with tempfile.TemporaryDirectory(dir=out_dir) as folder:
        path = Path(folder) / "torch-logits.f32"
        with torch_model(
            config.checkpoint.path, trust_remote_code=config.trust_remote_code
        ) as base:
            network = _with_adapter(base, config)
            write_logits(path, chunks, vocab_size, lambda chunk: torch_logits(network, chunk))
        with LlamaModel(
            file,
            context_tokens=config.context_tokens,
            exact=True,
            adapter=path_of(config.adapter_file),
        ) as model:
            reference = open_logits(path, chunks, vocab_size)
            return summarize(list(reference.compare(model.logits)))


def _with_adapter(network: Any, config: Config) -> Any:
    if config.adapter is None:
        return network
    from peft import PeftModel

    return PeftModel.from_pretrained(network, str(config.adapter.path)).eval()


def path_of(given: Input | None) -> Path | None:
    """Where a further input lies, if it was given."""
    return given.path if given else None


def torch_logits(network: Any, chunk: tuple[int, ...]) -> Any:
    """Torch's logits of every position of a chunk, `[tokens, vocabulary]`, nothing cached."""
    import torch

    return network(torch.tensor([chunk]), use_cache=False).logits[0].float().numpy()


def _logit_gates(exact: Comparison, config: Config) -> list[Gate]:
    mend = (
        "convert again from this checkpoint, with intermediate f32 (F16 may overflow, BF16 rounds "
        "what is computed); if it stays, llama.cpp computes this architecture in another way"
    )
    over = f"{exact.positions} positions against torch float32"
    disagree, beyond = (
        round((1 - share) * exact.positions) for share in (exact.top1_agreement, exact.top1_or_tie)
    )
    ties = f", {disagree - beyond} of them ties" if disagree > beyond else ""
    return [
        Gate(
            "logits top-1 agreement",
            exact.top1_or_tie,
            config.min_top1_agreement,
            exact.top1_or_tie >= config.min_top1_agreement,
            f"{disagree} of {over} disagree{ties}",
            mend,
        ),
        Gate(
            "logits mean KLD",
            exact.kld_mean,
            config.max_kld,
            exact.kld_mean <= config.max_kld,
            f"mean over {over}, largest {exact.kld_max:.3g}",
            mend,
        ),
    ]


def _write_reference(
    file: Path,
    config: Config,
    chunks: Chunks,
    vocab_size: int,
    evaluation: dict[str, Any],
    out_dir: Path,
) -> None:
    facts = {"evaluation": evaluation, "kv_cache_type": config.kv_cache_type, "file": file.name}
    with LlamaModel(
        file,
        context_tokens=config.context_tokens,
        kv_cache_type=config.kv_cache_type,
        adapter=path_of(config.adapter_file),
    ) as model:
        save_reference(out_dir, chunks, vocab_size, model.logits, facts)


def max_positions(config: Config, vocab_size: int) -> int:
    """Positions that both caps leave."""
    return min(config.max_tokens, config.max_reference_bytes // (_FLOAT32_BYTES * vocab_size))


def capped(documents: list[str], max_bytes: int) -> list[str]:
    """Whole documents up to the cap; the one that crosses it is cut."""
    kept, room = [], max_bytes
    for document in documents:
        data = document.encode()
        kept.append(data[:room].decode("utf-8", "ignore"))
        room -= len(data)
        if room <= 0:
            break
    return kept


def evaluation_facts(config: Config, documents: list[str], chunks: Chunks) -> dict[str, Any]:
    """What was evaluated on, for the proof and for `quality`."""
    return {
        "name": config.evaluation_name or config.evaluation.path.name,
        "digest": config.evaluation.digest,
        "documents": len(documents),
        "available_tokens": chunks.available_tokens,
        "chunks": len(chunks.tokens),
        "scored_tokens": chunks.positions,
        "max_tokens": config.max_tokens,
        "max_reference_bytes": config.max_reference_bytes,
        "context_tokens": config.context_tokens,
        "seed": config.seed,
    }


def perplexity_facts(value: float, stderr: float) -> dict[str, float]:
    """A perplexity with its standard error, by name."""
    return {"perplexity": value, "perplexity_stderr": stderr}
