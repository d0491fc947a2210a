"""Quality beside speed: from the bundle's manifest where it has it, else measured here.

Decoders: KLD (nats) and top-1 agreement on held-out text. The reference is the FP32 ONNX file,
else torch in FP32; every engine runs in its own worker, the logits pass through files.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark.fleet import Fleet
from benchmark.inputs import Inputs
from benchmark.records import FP32, EngineSpec
from benchmark.settings import Settings
from common.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Logits = NDArray[np.float32]

_CHUNK_TOKENS = 256


def decoder_quality(
    fleet: Fleet, inputs: Inputs, settings: Settings, text: Path | None
) -> dict[str, Any] | None:
    """Figures by engine against the reference; None without a checkpoint or a reference."""
    from toolchain.data.text import evaluation_text
    from toolchain.evaluate.chunks import choose_chunks
    from toolchain.hf import load_tokenizer, token_ids

    reference = _reference(fleet)
    if inputs.checkpoint is None or reference is None:
        return None
    source = evaluation_text(inputs.checkpoint, text)
    tokenizer = load_tokenizer(inputs.checkpoint)
    room = settings.prompt_tokens + settings.decode_tokens
    chunks = choose_chunks(
        [token_ids(tokenizer, document, add_special=True) for document in source.documents],
        context_tokens=min(_CHUNK_TOKENS, room),
        max_positions=settings.quality_tokens,
        bos_token_id=tokenizer.bos_token_id,
        seed=settings.seed,
    )
    rows: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="edgeforge-bench-") as name:
        folder = Path(name)
        expected = _logits(fleet, reference, chunks.tokens, folder)
        for spec in fleet.specs:
            if spec.name != reference.name:
                found = _logits(fleet, spec, chunks.tokens, folder)
                rows[spec.name] = _compared(expected, found, chunks.tokens, fleet.say, spec.name)
    rows = {engine: row for engine, row in rows.items() if row}
    if not rows:
        return None
    return {
        "source": f"{chunks.positions} positions of {source.name}, against {reference.name}",
        "reference": reference.name,
        "engines": rows,
    }


def manifest_quality(manifest: dict[str, Any] | None) -> dict[str, Any] | None:
    """The INT8 file's figures and limits as the bundle's gates give them."""
    names = {
        "mean KLD": "kld_mean",
        "top-1 agreement": "top1_agreement",
        "perplexity": "perplexity",
        "accuracy": "accuracy",
        "accuracy lost": "accuracy_loss",
        "entity F1 lost": "accuracy_loss",
        "macro F1": "macro_f1",
        "agreement": "agreement",
        "mean cosine": "cosine_mean",
    }
    figures, limits = {}, {}
    for gate in (manifest or {}).get("gates", []):
        if name := names.get(gate.get("name")):
            figures[name] = gate["figure"]
            if gate.get("limit") is not None:
                limits[name] = gate["limit"]
    if not figures.keys() & {"kld_mean", "accuracy_loss", "accuracy", "cosine_mean"}:
        return None
    from benchmark.records import INT8

    return {"source": "the bundle's manifest", "engines": {INT8: figures}, "limits": limits}


def _reference(fleet: Fleet) -> EngineSpec | None:
    by_name = {spec.name: spec for spec in fleet.specs}
    return by_name.get(FP32) or by_name.get("torch-fp32")


def _logits(
    fleet: Fleet, spec: EngineSpec, chunks: tuple[tuple[int, ...], ...], folder: Path
) -> list[Logits]:
    """Memory-mapped logits of every chunk, its last position left out."""
    import numpy as np

    found = []
    with fleet.beside(spec) as worker:
        for i, chunk in enumerate(chunks):
            file = folder / f"{spec.name}-{i}.npy"
            worker.ask("logits", tokens=list(chunk), file=str(file))
            found.append(np.load(file, mmap_mode="r")[:-1])
    return found


def _compared(
    expected: list[Logits],
    found: list[Logits],
    chunks: tuple[tuple[int, ...], ...],
    say: Callable[[str], None],
    name: str,
) -> dict[str, float]:
    """KLD and agreement; nothing where the vocabularies or values do not allow it."""
    import numpy as np

    from toolchain.evaluate.logits import compare_positions, summarize

    try:
        parts = [
            compare_positions(np.asarray(e), np.asarray(f), np.asarray(c[1:], np.int32))
            for e, f, c in zip(expected, found, chunks, strict=True)
        ]
    except UserError as error:
        say(f"{name}: no quality figures: {error.problem}")
        return {}
    figures = summarize(parts).as_json()
    names = ("kld_mean", "kld_p99", "top1_agreement", "perplexity", "reference_perplexity")
    return {name: figures[name] for name in names}
