"""Proof that an exported encoder is the checkpoint: torch and onnxruntime on the same inputs.

Token ids of very different lengths run as one padded batch and alone, so that a wrong padding mask
shows; then whole texts run through the folder's own tokenizer, so that a wrong tokenizer shows.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from runtimes.ort import SessionSettings
from runtimes.ort_encoder import TAG, OrtEncoder, open_encoder
from toolchain.evaluate.awkward import AWKWARD_TEXTS
from toolchain.evaluate.gate import Gate

LIMIT = 1e-3
_LONGEST_TOKENS = 1024
_MEND = "please report this model's config.json; until then build it for another runtime"


def parity_gates(folder: Path, exported: Any, tokenizer: Any) -> list[Gate]:
    """Outputs for token ids and for texts, and token ids for texts: ONNX folder against torch."""
    with open_encoder(folder, SessionSettings(spinning=False)) as model:
        return [
            _outputs_gate(model, exported),
            _tokens_gate(model, tokenizer),
            _texts_gate(model, exported, tokenizer),
        ]


def _outputs_gate(model: OrtEncoder, exported: Any) -> Gate:
    import numpy as np

    batch = _padded_batch(model, int(exported.model.config.vocab_size))
    together = model.run(batch)
    wanted = _torch(exported, model, batch)
    lengths = batch["attention_mask"].sum(axis=1)
    diff = 0.0
    for row, length in enumerate(lengths):
        alone = {name: value[row : row + 1, :length] for name, value in batch.items()}
        single = _torch(exported, model, alone)
        for found, right in (
            (model.run(alone), single),
            (together[row : row + 1], wanted[row : row + 1]),
            (together[row : row + 1], single),
        ):
            kept = slice(0, length) if model.facts.task == TAG else slice(None)
            diff = max(diff, float(np.abs(found[:, kept] - right[:, kept]).max()))
    said = ", ".join(str(length) for length in lengths)
    return Gate(
        "outputs", diff, LIMIT, bool(diff <= LIMIT),
        f"largest difference from torch, rows of {said} tokens padded together and alone", _MEND,
    )  # fmt: skip


def _tokens_gate(model: OrtEncoder, tokenizer: Any) -> Gate:
    """Token ids of awkward texts and one pair, and of one text beyond the limit."""
    texts: list[Any] = [*AWKWARD_TEXTS, ("two texts", "make a pair"), "word " * 3000]
    differ = []
    for text in texts:
        parts = (text,) if isinstance(text, str) else text
        wanted = tokenizer(*parts, truncation=True, max_length=model.facts.max_tokens)
        if model.encode([text])[0].ids != wanted["input_ids"]:
            differ.append(str(text)[:40])
    detail = f"first: {differ[0]!r}" if differ else f"ids of {len(texts)} texts equal transformers'"
    return Gate("tokens", float(len(differ)), 0.0, not differ, detail, _MEND)


def _texts_gate(model: OrtEncoder, exported: Any, tokenizer: Any) -> Gate:
    """Texts as a user gives them, in onnxruntime in batches, in torch one by one."""
    import numpy as np

    encodings = model.encode(AWKWARD_TEXTS)
    diff = 0.0
    for start in range(0, len(encodings), 8):
        chunk = encodings[start : start + 8]
        outputs = model.run(model.inputs_of(chunk))
        texts = AWKWARD_TEXTS[start : start + 8]
        for text, encoding, output in zip(texts, chunk, outputs, strict=True):
            batch = tokenizer(
                text, truncation=True, max_length=model.facts.max_tokens, return_tensors="np"
            )
            inputs = {name: batch[name] for name in model.facts.inputs if name in batch}
            right = _torch(exported, model, {**model.inputs_of([encoding]), **inputs})[0]
            kept = slice(0, len(right)) if model.facts.task == TAG else slice(None)
            if output[kept].shape != right.shape:
                diff = float("inf")
            else:
                diff = max(diff, float(np.abs(output[kept] - right).max()))
    detail = f"largest difference from torch over {len(AWKWARD_TEXTS)} texts"
    return Gate("texts", diff, LIMIT, bool(diff <= LIMIT), detail, _MEND)


def _padded_batch(model: OrtEncoder, vocab: int) -> dict[str, Any]:
    """Random ids: rows of 3 tokens up to the longest that is tried, padded to one length."""
    import numpy as np

    longest = min(model.facts.max_tokens, _LONGEST_TOKENS)
    lengths = sorted({min(3, longest), longest // 7 + 1, longest // 2 + 1, longest})
    random = np.random.default_rng(0)
    ids = np.full((len(lengths), longest), model.facts.pad_token_id, np.int64)
    mask = np.zeros_like(ids)
    for row, length in enumerate(lengths):
        drawn = random.integers(0, vocab, length)
        # A padding id within the text is no padding: some models count positions by it.
        drawn[drawn == model.facts.pad_token_id] = (model.facts.pad_token_id + 1) % vocab
        ids[row, :length], mask[row, :length] = drawn, 1
    columns = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
    return {name: columns[name] for name in model.facts.inputs}


def _torch(exported: Any, model: OrtEncoder, inputs: dict[str, Any]) -> Any:
    import torch

    with torch.inference_mode():
        values = [torch.from_numpy(inputs[name]) for name in model.facts.inputs]
        return exported(*values).numpy()
