"""An encoder in torch as it is exported: token ids in, logits or one embedding out."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

from common.errors import UserError
from runtimes.ort_encoder import CLASSIFY, EMBED, EncoderFacts

_LOAD_FAULTS = (OSError, ValueError, KeyError, ImportError, RuntimeError, AttributeError, TypeError)
_POOLER = "pooler."


def load_network(folder: Path, facts: EncoderFacts, *, trust_remote_code: bool = False) -> Any:
    """The checkpoint's network in float32 with plain attention, which the exporter and
    onnxruntime's own fusions know best.

    Raises `UserError` when weights are broken or the task's head is not among them.
    """
    import torch
    import transformers

    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    names = {CLASSIFY: "AutoModelForSequenceClassification", EMBED: "AutoModel"}
    loader = getattr(transformers, names.get(facts.task, "AutoModelForTokenClassification"))
    try:
        network, said = loader.from_pretrained(
            folder,
            dtype=torch.float32,
            attn_implementation="eager",
            local_files_only=True,
            output_loading_info=True,
            trust_remote_code=trust_remote_code,
        )
    except _LOAD_FAULTS as error:
        raise UserError(
            f"the weights of {folder} do not load in torch: {error}",
            "check the weight files, or fetch the checkpoint again",
        ) from None
    missing = sorted(name for name in said["missing_keys"] if _counts(name, facts.task))
    if missing:
        raise UserError(
            f"{folder.name} lacks weights that {facts.task} needs: {', '.join(missing[:4])}",
            f"fine-tune it for {facts.task} first, or give another task",
        )
    return network.eval()


def exported_network(network: Any, facts: EncoderFacts) -> Any:
    """The network as one function of the graph's inputs, in their order: logits
    [texts, labels] or [texts, tokens, labels], or embeddings [texts, width]."""
    import torch

    class Exported(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.model = network

        def forward(self, *inputs: Any) -> Any:
            named = dict(zip(facts.inputs, inputs, strict=True))
            outputs = self.model(**named, return_dict=True)
            if facts.task != EMBED:
                return outputs.logits
            hidden = outputs.last_hidden_state
            pooled = _pooled(hidden, named["attention_mask"], str(facts.pooling))
            return torch.nn.functional.normalize(pooled, dim=-1) if facts.normalize else pooled

    # The exporter restores the outer module's training flag into the inner one: both in eval.
    return Exported().eval()


def _pooled(hidden: Any, mask: Any, mode: str) -> Any:
    """`runtimes.pooling.pool` as torch operations; texts are padded at the end: [texts, width]."""
    import torch

    if mode == "cls":
        return hidden[:, 0]
    if mode == "lasttoken":
        last = (mask.sum(1) - 1).clamp(min=0).view(-1, 1, 1)
        return hidden.gather(1, last.expand(-1, 1, hidden.shape[-1])).squeeze(1)
    kept = mask.unsqueeze(-1).to(hidden.dtype)
    if mode == "max":
        return torch.where(kept > 0, hidden, torch.finfo(hidden.dtype).min).amax(1)
    return (hidden * kept).sum(1) / kept.sum(1).clamp(min=1e-9)


def input_names(network: Any) -> tuple[str, ...]:
    """Names of the inputs that the network makes use of; segment ids only where there are two."""
    parameters = inspect.signature(network.forward).parameters
    names = ["input_ids", "attention_mask"]
    if "token_type_ids" in parameters and getattr(network.config, "type_vocab_size", 0) > 1:
        names.append("token_type_ids")
    return tuple(names)


def _counts(missing: str, task: str) -> bool:
    """Whether a missing weight matters: an embedding model's pooler is not used."""
    return not (task == EMBED and _POOLER in missing)
