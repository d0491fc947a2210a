"""The settings of a peft adapter that decide how it is merged, read strictly.

Whatever would change the result and is not known here is refused by name: a wrong merge gives a
model that runs and is subtly worse.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from common.errors import UserError

CONFIG = "adapter_config.json"
# Kinds of initialization that leave the base's weights as they are. Others (PiSSA, OLoRA, CorDA,
# LoftQ, …) move a part of the base into the adapter: the file alone does not tell the result.
_PLAIN_INITS = (True, False, "gaussian", "eva", "orthogonal")
# Settings that make the adapter more than W + s·B·A, or put it on something else than a layer.
_REFUSED = {
    "alora_invocation_tokens": "an activated LoRA works on part of the tokens only",
    "arrow_config": "Arrow routes between adapters at run time",
    "kasa_config": "KaSA",
    "layer_replication": "replicated layers make another architecture",
    "megatron_config": "Megatron layers",
    "monteclora_config": "MonteCLoRA",
    "target_parameters": "LoRA on bare parameters (fused experts)",
    "trainable_token_indices": "single trainable tokens",
    "use_bdlora": "BD-LoRA",
    "use_qalora": "QA-LoRA",
    "velora_config": "VeLoRA",
}
_KNOWN = frozenset((
    "alpha_pattern", "auto_mapping", "base_model_name_or_path", "bias",
    "corda_config", "ensure_weight_tying", "eva_config", "exclude_modules",
    "fan_in_fan_out", "inference_mode", "init_lora_weights", "layers_pattern",
    "layers_to_transform", "loftq_config", "lora_alpha", "lora_bias",
    "lora_dropout", "lora_ga_config", "megatron_core", "modules_to_save",
    "peft_type", "peft_version", "qalora_group_size", "r",
    "rank_pattern", "revision", "runtime_config", "target_modules",
    "task_type", "use_dora", "use_rslora",
))  # fmt: skip


@dataclass(frozen=True)
class LoraSettings:
    """What `adapter_config.json` says, as far as merging needs it.

    Patterns map a module's name, or a regular expression for its end, to a rank or an alpha.
    """

    rank: int
    alpha: float
    rank_pattern: Mapping[str, int]
    alpha_pattern: Mapping[str, float]
    use_rslora: bool
    use_dora: bool
    fan_in_fan_out: bool
    ensure_weight_tying: bool
    base_model: str | None

    def rank_of(self, module: str) -> int:
        """The rank that the settings give to a module."""
        return int(_by_pattern(self.rank_pattern, module, self.rank))

    def scaling_of(self, module: str) -> float:
        """alpha / r, or alpha / √r for rank-stabilized LoRA (https://arxiv.org/abs/2312.03732)."""
        alpha = float(_by_pattern(self.alpha_pattern, module, self.alpha))
        rank = self.rank_of(module)
        return alpha / (math.sqrt(rank) if self.use_rslora else rank)


def parse_settings(data: Mapping[str, Any], origin: str) -> LoraSettings:
    """The settings; a `UserError` lists everything in them that cannot be merged."""
    kind = data.get("peft_type")
    if kind != "LORA":
        raise UserError(
            f"{origin} is an adapter of type {kind!r}, which cannot be merged here",
            "only LoRA and DoRA adapters (peft_type LORA) can be merged",
        )
    faults = [*_unsupported(data), *_broken(data)]
    if faults:
        raise UserError(
            f"the adapter {origin} cannot be merged",
            "train it as plain LoRA or DoRA, or merge it with the tool that made it",
            details=faults,
        )
    base = data.get("base_model_name_or_path")
    return LoraSettings(
        rank=data["r"],
        alpha=float(data["lora_alpha"]),
        rank_pattern=dict(data.get("rank_pattern") or {}),
        alpha_pattern=dict(data.get("alpha_pattern") or {}),
        use_rslora=bool(data.get("use_rslora")),
        use_dora=bool(data.get("use_dora")),
        fan_in_fan_out=bool(data.get("fan_in_fan_out")),
        ensure_weight_tying=bool(data.get("ensure_weight_tying")),
        base_model=base if isinstance(base, str) and base else None,
    )


def _unsupported(data: Mapping[str, Any]) -> list[str]:
    faults = [f"{key}: {why}" for key, why in _REFUSED.items() if data.get(key)]
    init = data.get("init_lora_weights", True)
    if init not in _PLAIN_INITS:
        faults.append(
            f"init_lora_weights: {init!r} changes the base's weights (save it with peft's "
            "path_initial_model_for_weight_conversion to get a plain LoRA)"
        )
    unknown = sorted(key for key in data if key not in _KNOWN and key not in _REFUSED and data[key])
    return [*faults, *(f"{key}: a setting that is not known here" for key in unknown)]


def _broken(data: Mapping[str, Any]) -> list[str]:
    faults = []
    if not _is_rank(data.get("r")):
        faults.append(f"r: {data.get('r')!r} is no rank")
    if not _is_number(data.get("lora_alpha")):
        faults.append(f"lora_alpha: {data.get('lora_alpha')!r} is no number")
    for key, fits in (("rank_pattern", _is_rank), ("alpha_pattern", _is_number)):
        pattern = data.get(key) or {}
        if not isinstance(pattern, dict):
            faults.append(f"{key}: no mapping")
            continue
        for name, value in pattern.items():
            if not fits(value):
                faults.append(f"{key}: {name} has {value!r}")
            elif not _compiles(name):
                faults.append(f"{key}: {name} is no regular expression")
    return faults


def _is_rank(value: Any) -> bool:
    return type(value) is int and value > 0


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _compiles(pattern: str) -> bool:
    try:
        re.compile(pattern)
    except re.error:
        return False
    return True


def _by_pattern(patterns: Mapping[str, Any], module: str, default: Any) -> Any:
    """The value of the first pattern that matches the end of the module's name, as in peft."""
    for pattern, value in patterns.items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            return value
    return default
