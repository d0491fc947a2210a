"""Record the answers that later tests compare with, while a bundle is built."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .answers import ask
from .bundle import ENCODER, CannotRun, read_profile, read_prompts, write_prompts
from .encoder_test import text_of
from .find import recorder
from .machine import usable_cores
from .onnx_encoder import OnnxEncoder
from .speed import choose_threads


def record(bundle: Path, threads: int | None) -> dict[str, Any]:
    """Answer the bundle's prompts and write the answers into prompts.jsonl as the expected ones.

    Run while a bundle is made, before its digests are taken. Returns which engine answered, which
    belongs into profile.json as `recorded`.
    """
    profile, prompts = read_profile(bundle), read_prompts(bundle)
    if profile.get("kind") == ENCODER:
        return record_encoder(bundle, profile, prompts, threads)
    engine = recorder(profile)
    # The answers do not depend on the context's size, so the smallest that holds them will do.
    needed = max(len(row["token_ids"]) + row["max_new_tokens"] for row in prompts) + 1
    context = min(int(profile["context_length"]), -(-needed // 256) * 256)
    if needed > context:
        raise CannotRun(f"a prompt and its answer need {needed} tokens of context")
    try:
        engine.load(bundle / profile["model_file"], profile, context, threads or usable_cores())
        choose_threads(engine, usable_cores(), threads, quick=True)
        answers = ask(engine, prompts)
    finally:
        engine.close()
    for index, row in enumerate(prompts):
        answer = answers[index]
        row.update(
            expected=answer.text, expected_token_ids=answer.token_ids, stopped=answer.stopped
        )
    write_prompts(bundle, prompts)
    return {"name": engine.name, "version": engine.version, "features": engine.features}


def record_encoder(
    bundle: Path, profile: dict[str, Any], prompts: list[dict[str, Any]], threads: int | None
) -> dict[str, Any]:
    """Write an encoder's labels and outputs into prompts.jsonl as the expected ones."""
    engine = OnnxEncoder(bundle / profile["model_file"], threads or usable_cores())
    for row in prompts:
        made = engine.rows([text_of(row)])[0]
        row.update(expected=engine.label(made), expected_output=[round(x, 6) for x in made])
    write_prompts(bundle, prompts)
    return {"name": engine.name, "version": engine.version, "features": engine.features}
