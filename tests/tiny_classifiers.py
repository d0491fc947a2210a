"""A tiny BERT that was trained to tell two kinds of text apart, and an adapter that does too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

ROWS = tuple(
    (f"{opening} the {thing}", label)
    for opening, label in (
        ("Turn on", "on"), ("set", "on"), ("please", "on"),
        ("jumps over", "off"), ("isn't", "off"), ("关掉", "off"),
    )
    for thing in ("lamp", "kitchen", "fox", "dog", "answers", "weights")
)  # fmt: skip


def fit(network: Any, tokenizer: Any, labels: tuple[str, ...], steps: int = 40) -> None:
    """Train all that wants a gradient on `ROWS`, in a second."""
    import torch

    inputs = tokenizer([text for text, _ in ROWS], padding=True, return_tensors="pt")
    wanted = torch.tensor([labels.index(label) for _, label in ROWS])
    trained = [weight for weight in network.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained, 3e-3)
    for _ in range(steps):
        network(**inputs, labels=wanted).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    network.eval()


def trained_classifier(folder: Path, labels: tuple[str, ...] = ("on", "off")) -> Path:
    """Fit a tiny BERT in place; it knows `ROWS` by heart."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    network = AutoModelForSequenceClassification.from_pretrained(folder)
    fit(network, AutoTokenizer.from_pretrained(folder), labels)
    network.save_pretrained(folder)
    return folder


def classifier_adapter(base: Path, folder: Path, labels: tuple[str, ...] = ("on", "off")) -> Any:
    """A LoRA adapter with its head for an encoder without one; the network that it came from."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    with torch.random.fork_rng():
        torch.manual_seed(1)
        network = AutoModelForSequenceClassification.from_pretrained(base, num_labels=len(labels))
        tuned = get_peft_model(
            network, LoraConfig(task_type="SEQ_CLS", r=4, target_modules=["query", "value"])
        )
    fit(tuned, AutoTokenizer.from_pretrained(base), labels)
    tuned.save_pretrained(folder)
    return tuned
