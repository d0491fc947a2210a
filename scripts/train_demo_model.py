"""Train the embedded demo model from nothing: tokenizer, weights, data folder and model card.

Example:
    python scripts/train_demo_model.py --out build/demo-1
    python scripts/train_demo_model.py --out toolchain/assets/demo-model \\
        --start build/demo-1 --seed 8 --keep-simple 0.35 --learning-rate 0.002

A small Llama learns the home-control task of ``toolchain.data.home_control``. The run has a fixed
seed and needs no download. It uses a GPU where there is one; on two shared CPU cores the first
command took 49 minutes and the second, which goes on with new examples and more requests of several
clauses, 27. On a busy machine ``--minutes`` bounds the training. Progress goes to stderr, the
result is one JSON line on stdout.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from demo_model_answers import SYSTEM_TURN, evaluate, render
from demo_model_files import RUNS_FILE, write_card, write_data_folder
from demo_model_tokenizer import train_tokenizer

from toolchain.data.home_control import Example, generate

SYSTEM_SHARE = 0.04
PROMPT_LOSS_WEIGHT = 0.15


@dataclass(frozen=True)
class Settings:
    """Everything that shapes a run; the defaults are those of the shipped model."""

    out: Path
    seed: int = 7
    examples: int = 140_000
    test_examples: int = 2000
    vocabulary: int = 2048
    layers: int = 6
    hidden: int = 256
    feed_forward: int = 768
    batch_tokens: int = 2048
    learning_rate: float = 3e-3
    threads: int = 2
    minutes: float = 0.0
    start: str = ""
    keep_simple: float = 1.0


@dataclass(frozen=True)
class Batch:
    """Token ids of equal-length-padded rows with a loss weight for each predicted token."""

    ids: Any
    weights: Any


def say(text: str) -> None:
    """Write one line of progress."""
    print(text, file=sys.stderr, flush=True)


def build_model(settings: Settings, tokenizer: Any) -> Any:
    """A fresh Llama of the wanted size in float32."""
    from transformers import LlamaConfig, LlamaForCausalLM

    heads = max(2, settings.hidden // 64)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=settings.hidden, head_dim=64,
        intermediate_size=settings.feed_forward, num_hidden_layers=settings.layers,
        num_attention_heads=heads, num_key_value_heads=heads // 2, tie_word_embeddings=True,
        max_position_embeddings=2048, rms_norm_eps=1e-5, bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    return LlamaForCausalLM(config)


def draw(settings: Settings) -> list[Example]:
    """The train examples; ``keep_simple`` is the share kept of those with one clause."""
    rng = random.Random(settings.seed)
    drawn = generate("train", settings.examples, settings.seed)
    return [e for e in drawn if e.kind == "clauses" or rng.random() < settings.keep_simple]


def begin(settings: Settings, examples: Sequence[Example], device: str) -> tuple[Any, Any]:
    """A new tokenizer and model, or those of an earlier run to go on from (``--start``)."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if settings.start:
        model = AutoModelForCausalLM.from_pretrained(settings.start, dtype=torch.float32)
        return AutoTokenizer.from_pretrained(settings.start), model.to(device)
    texts = [part for e in examples[:30_000] for part in (e.messages[0]["content"], e.answer)]
    turns = [SYSTEM_TURN, "system\n", "user\n", "assistant\n"] * 1000
    tokenizer = train_tokenizer(settings.vocabulary, [*texts, *turns])
    return tokenizer, build_model(settings, tokenizer).to(device)


def encode(settings: Settings, tokenizer: Any, examples: Sequence[Example]) -> list[Any]:
    """Token ids of each example and the length of its prompt."""
    rng = random.Random(settings.seed)
    pairs = [render(example, rng.random() < SYSTEM_SHARE) for example in examples]
    fast = tokenizer.backend_tokenizer
    prompts = fast.encode_batch([prompt for prompt, _ in pairs], add_special_tokens=False)
    replies = fast.encode_batch([reply for _, reply in pairs], add_special_tokens=False)
    return [(p.ids + r.ids, len(p.ids)) for p, r in zip(prompts, replies, strict=True)]


def make_batches(settings: Settings, rows: list[Any], pad: int) -> list[Batch]:
    """Batches of rows of like length, in random order."""
    import torch

    rng = random.Random(settings.seed)
    order = sorted(rows, key=lambda row: len(row[0]) + rng.random())
    groups: list[list[Any]] = [[]]
    for row in order:
        if (len(groups[-1]) + 1) * len(row[0]) > settings.batch_tokens and groups[-1]:
            groups.append([])
        groups[-1].append(row)
    rng.shuffle(groups)
    batches = []
    for group in groups:
        width = max(len(ids) for ids, _ in group)
        ids = torch.full((len(group), width), pad, dtype=torch.int32)
        weights = torch.zeros((len(group), width - 1), dtype=torch.float32)
        for line, (tokens, prompt) in enumerate(group):
            ids[line, : len(tokens)] = torch.tensor(tokens, dtype=torch.int32)
            weights[line, : prompt - 1] = PROMPT_LOSS_WEIGHT
            weights[line, prompt - 1 : len(tokens) - 1] = 1.0
        batches.append(Batch(ids, weights))
    return batches


def make_optimizers(model: Any, rate: float) -> list[Any]:
    """Muon for the matrices, which learns this task in fewer steps, AdamW for the rest."""
    import torch

    named = list(model.named_parameters())
    matrices = [p for name, p in named if p.ndim == 2 and "embed" not in name]
    rest = [p for name, p in named if p.ndim != 2 or "embed" in name]
    muon = torch.optim.Muon(matrices, lr=rate, weight_decay=0.02, adjust_lr_fn="match_rms_adamw")
    return [muon, torch.optim.AdamW(rest, lr=rate, betas=(0.9, 0.98), weight_decay=0.0)]


def schedule(done: float) -> float:
    """The share of the full rate: warm up, hold, then fall to nearly nothing."""
    if done < 0.02:
        return 0.05 + 0.95 * done / 0.02
    return 1.0 if done < 0.4 else max(0.01, (1.0 - done) / 0.6)


def step(model: Any, batch: Batch, device: str) -> float:
    """One forward and backward pass; the answer's loss."""
    import torch

    ids, weights = batch.ids.to(device).long(), batch.weights.to(device)
    with torch.autocast(device, torch.bfloat16):
        logits = model(input_ids=ids[:, :-1]).logits
    losses = torch.nn.functional.cross_entropy(
        logits.float().flatten(0, 1), ids[:, 1:].flatten(), reduction="none"
    ).view_as(weights)
    loss = (losses * weights).sum() / weights.sum()
    loss.backward()
    answer = weights == 1.0
    return float((losses.detach() * answer).sum() / answer.sum())


def train(settings: Settings, model: Any, batches: Sequence[Batch], device: str) -> list[float]:
    """Train once over the batches, or until ``minutes`` are over, and return the losses."""
    import torch

    optimizers = make_optimizers(model, settings.learning_rate)
    losses: list[float] = []
    start, tokens = time.monotonic(), 0
    model.train()
    for index, batch in enumerate(batches):
        limit = settings.minutes * 60 or float("inf")
        done = max(index / len(batches), (time.monotonic() - start) / limit)
        if done >= 1.0:
            break
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = settings.learning_rate * schedule(done)
        losses.append(step(model, batch, device))
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        tokens += batch.ids.numel()
        if index % 50 == 0 or index + 1 == len(batches):
            spent = time.monotonic() - start
            left = spent * (1 - done) / max(done, 1e-9) if index else 0.0
            recent = sum(losses[-50:]) / len(losses[-50:])
            say(
                f"step {index}/{len(batches)} loss {recent:.4f} {tokens / spent:.0f} tokens/s "
                f"{spent / 60:.1f} min, {left / 60:.1f} min left"
            )
        if index % 300 == 299:
            model.save_pretrained(settings.out / "partial")
    return losses


def run(settings: Settings) -> dict[str, Any]:
    """The whole recipe; returns the facts that the model card states."""
    import torch
    from transformers import AutoModelForCausalLM, GenerationConfig

    torch.manual_seed(settings.seed)
    torch.set_num_threads(settings.threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    say(f"drawing {settings.examples} examples")
    examples = draw(settings)
    tokenizer, model = begin(settings, examples, device)
    rows = encode(settings, tokenizer, examples)
    batches = make_batches(settings, rows, tokenizer.pad_token_id)
    tokens = sum(len(ids) for ids, _ in rows)
    say(f"{model.num_parameters()} parameters, {tokens} tokens, {len(batches)} batches, {device}")
    start = time.monotonic()
    losses = train(settings, model, batches, device)
    minutes = (time.monotonic() - start) / 60
    model.generation_config = GenerationConfig(
        do_sample=False, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    model.to(torch.bfloat16).save_pretrained(settings.out)
    tokenizer.save_pretrained(settings.out)
    shutil.rmtree(settings.out / "partial", ignore_errors=True)
    saved = AutoModelForCausalLM.from_pretrained(settings.out, dtype=torch.bfloat16).to(device)
    test = list(generate("test", settings.test_examples, settings.seed))
    say(f"evaluating {len(test)} test examples")
    match = evaluate(saved.eval(), tokenizer, test)
    used = batches[: len(losses)]
    return {
        "parameters": model.num_parameters(), "layers": settings.layers, "seed": settings.seed,
        "examples": settings.examples, "seen": sum(len(batch.ids) for batch in used),
        "tokens": sum(batch.ids.numel() for batch in used), "steps": len(losses),
        "minutes": round(minutes, 1), "first_loss": round(losses[0], 4),
        "last_loss": round(sum(losses[-50:]) / len(losses[-50:]), 5),
        "test_examples": len(test), "exact_match": match, "device": device,
    }  # fmt: skip


def parse(arguments: Sequence[str] | None = None) -> Settings:
    """Read the command line; each option has the default of the shipped model."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("toolchain/assets/demo-model"))
    for name, default in vars(Settings(Path())).items():
        if name != "out":
            parser.add_argument(f"--{name.replace('_', '-')}", type=type(default), default=default)
    return Settings(**vars(parser.parse_args(arguments)))


def options(settings: Settings) -> str:
    """What the command line said beyond the defaults, without the paths of this machine."""
    plain = vars(Settings(settings.out))
    changed = {name: value for name, value in vars(settings).items() if value != plain[name]}
    if "start" in changed:
        changed["start"] = "EARLIER"
    return " ".join(f"--{name.replace('_', '-')} {value}" for name, value in changed.items())


def main(arguments: Sequence[str] | None = None) -> int:
    """Train, evaluate and write the folder."""
    settings = parse(arguments)
    settings.out.mkdir(parents=True, exist_ok=True)
    earlier = Path(settings.start) / RUNS_FILE if settings.start else None
    runs = json.loads(earlier.read_text(encoding="utf-8")) if earlier else []
    facts = {"options": options(settings), **run(settings)}
    write_data_folder(settings.out / "edgeforge", Settings(Path()).seed)
    write_card(settings.out, [*runs, facts])
    print(json.dumps(facts))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
