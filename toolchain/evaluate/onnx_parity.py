"""Stage `onnx-parity`: prove that a float32 ONNX decoder is the model that the checkpoint is.

Gates, each with its figure: logits against torch in float32 (largest difference, mean KLD, top-1)
and greedy answers. Token ids are those of the checkpoint's own tokenizer, which the file brings
along. A gate that fails raises `ParityError`, so nothing is written. What passes leaves the file's
logits on the evaluation text behind, for stage `onnx-quality`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.files import require_free_bytes, write_json
from runtimes.torch_model import TorchModel
from toolchain import artifact
from toolchain.artifact import Artifact
from toolchain.data.text import read_documents
from toolchain.evaluate import parity
from toolchain.evaluate.chunks import Chunks, choose_chunks
from toolchain.evaluate.gate import Gate, require
from toolchain.evaluate.logits import Comparison, summarize
from toolchain.evaluate.reference import Reference, open_logits, save_reference, write_logits
from toolchain.hf import end_token_ids, load_tokenizer, torch_model
from toolchain.model_kinds import onnx as onnx_kind
from toolchain.models import OpenModel, OpenOptions

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

NAME = "onnx-parity"
VERSION = 1
TOOLS = ("onnxruntime", "torch", "transformers")
FORMAT, RESULT = parity.FORMAT, parity.RESULT
_FLOAT32_BYTES = 4
_PROMPTS, _PROMPT_TOKENS, _NEW_TOKENS = 4, 16, 24
_MEND = (
    "export again with exporter torch; if it stays, the exporter computes this architecture in "
    "another way: ship GGUF"
)


class Config(parity.Config):
    """As for stage `parity`. `max_abs_diff` is in logits."""

    kv_cache_type: str = "f32"
    max_kld: float = 1e-6
    max_abs_diff: float = 1e-3


@dataclass(frozen=True)
class _Torch:
    """What torch gave: logits of the chunks, and greedy answers to a few prompts."""

    reference: Reference
    prompts: list[list[int]]
    answers: list[tuple[int, ...]]


def run(source: Artifact, config: Config, out_dir: Path) -> Artifact:
    """Prove the ONNX file in `source`; raises `ParityError` when a gate fails."""
    checkpoint = config.checkpoint.path
    tokenizer = load_tokenizer(checkpoint, trust_remote_code=config.trust_remote_code)
    documents = parity.capped(
        read_documents(config.evaluation.path, checkpoint), config.max_text_bytes
    )
    options = OpenOptions(
        context_tokens=config.context_tokens, trust_remote_code=config.trust_remote_code
    )
    with onnx_kind.open_path(source.path, options) as model:
        vocab_size, context_tokens = model.runtime.vocab_size, model.context_tokens
        chunks = choose_chunks(
            [model.runtime.tokenize(text, add_special=True) for text in documents],
            context_tokens=context_tokens,
            max_positions=parity.max_positions(config, vocab_size),
            bos_token_id=model.bos_token_id,
            seed=config.seed,
        )
    require_free_bytes(out_dir, 2 * chunks.positions * vocab_size * _FLOAT32_BYTES, "parity")
    evaluation = parity.evaluation_facts(config, documents, chunks)
    with tempfile.TemporaryDirectory(dir=out_dir) as folder:
        file = Path(folder) / "torch-logits.f32"
        torch_side = _of_torch(config, tokenizer, chunks, vocab_size, context_tokens, file)
        with onnx_kind.open_path(source.path, options) as model:
            exact, largest = _compared(model, torch_side.reference)
            gates = [*_logit_gates(exact, largest, config), _greedy_gate(model, torch_side, config)]
            require(f"{source.path.name}/model.onnx", gates)
            facts = {"kv_cache_type": config.kv_cache_type, "file": "model.onnx"}
            save_reference(
                out_dir,
                chunks,
                vocab_size,
                model.runtime.logits,
                {"evaluation": evaluation, **facts},
            )
    measurements = {
        "gates": [gate.as_json() for gate in gates],
        "evaluation": evaluation,
        "stop": {"end_ids": end_token_ids(checkpoint, tokenizer), "extra_stop_ids": []},
        "logits": {**exact.as_json(), "max_abs_diff": largest},
        "torch": parity.perplexity_facts(
            exact.reference_perplexity, exact.reference_perplexity_stderr
        ),
        "unquantized_exact": parity.perplexity_facts(exact.perplexity, exact.perplexity_stderr),
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


def _of_torch(
    config: Config,
    tokenizer: Any,
    chunks: Chunks,
    vocab_size: int,
    context_tokens: int,
    file: Path,
) -> _Torch:
    """Run torch first and leave its logits on disk, so that memory holds one model."""
    room = max(1, context_tokens - _NEW_TOKENS)
    prompts = [list(chunk[: min(_PROMPT_TOKENS, room)]) for chunk in chunks.tokens[:_PROMPTS]]
    with torch_model(config.checkpoint.path, trust_remote_code=config.trust_remote_code) as network:
        write_logits(file, chunks, vocab_size, lambda chunk: parity.torch_logits(network, chunk))
        model = TorchModel(network, tokenizer, eog_token_ids=[], context_tokens=context_tokens)
        answers = [model.generate(p, _new_tokens(p, context_tokens)).token_ids for p in prompts]
    return _Torch(open_logits(file, chunks, vocab_size), prompts, answers)


def _new_tokens(prompt: Sequence[int], context_tokens: int) -> int:
    return min(_NEW_TOKENS, context_tokens - len(prompt))


def _compared(model: OpenModel, reference: Reference) -> tuple[Comparison, float]:
    """All figures, and the largest difference of a logit."""
    import numpy as np

    largest, start = 0.0, 0

    def logits_of(chunk: tuple[int, ...]) -> NDArray[np.float32]:
        nonlocal largest, start
        rows = model.runtime.logits(chunk)
        theirs = reference.logits[start : start + len(chunk) - 1]
        largest = max(largest, float(np.abs(rows[:-1] - theirs).max()))
        start += len(chunk) - 1
        return rows

    return summarize(list(reference.compare(logits_of))), largest


def _logit_gates(exact: Comparison, largest: float, config: Config) -> list[Gate]:
    over = f"{exact.positions} positions against torch float32"
    top1, least = exact.top1_agreement, config.min_top1_agreement
    kld, most = exact.kld_mean, config.max_kld
    rows = (
        ("logits max abs difference", largest, config.max_abs_diff, largest <= config.max_abs_diff),
        ("logits mean KLD", kld, most, kld <= most),
        ("logits top-1 agreement", top1, least, top1 >= least),
    )
    return [Gate(name, figure, limit, passed, over, _MEND) for name, figure, limit, passed in rows]


def _greedy_gate(model: OpenModel, torch_side: _Torch, config: Config) -> Gate:
    """Greedy answers must be equal, but where two tokens' logits are so close that the permitted
    difference decides."""
    different, ties, first = 0, 0, ""
    for prompt, expected in zip(torch_side.prompts, torch_side.answers, strict=True):
        found = model.runtime.generate(prompt, len(expected), []).token_ids
        if found == expected:
            continue
        same = next(i for i, (a, b) in enumerate(zip(expected, found, strict=True)) if a != b)
        row = model.runtime.logits([*prompt, *expected[:same]])[-1]
        if abs(float(row[expected[same]] - row[found[same]])) <= 2 * config.max_abs_diff:
            ties += 1
            continue
        different += 1
        first = first or f"after {same} tokens torch goes on with {expected[same]}, the file not"
    detail = first or f"{len(torch_side.prompts)} prompts, {_NEW_TOKENS} tokens each"
    detail += f"; {ties} part at a tie" if ties else ""
    return Gate("greedy answers", different, 0, different == 0, detail, _MEND)
