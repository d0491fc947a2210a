"""Refuse a bad checkpoint before any work begins, naming every fault at once.

validate(inspect(path))
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from common.errors import UserError
from toolchain.checkpoint.digests import FileScans
from toolchain.checkpoint.info import CheckpointInfo, Fault
from toolchain.checkpoint.layer_rules import LAYER_RULES
from toolchain.checkpoint.rules import STATIC_RULES, no_custom_code
from toolchain.checkpoint.scan import NonFinite
from toolchain.checkpoint.template_rule import chat_template_works

_LISTED = 10


def validate(
    info: CheckpointInfo,
    *,
    allow_pickle: bool = False,
    trust_remote_code: bool = False,
    deep: bool = True,
    scans: FileScans | None = None,
) -> None:
    """Raise one `UserError` that lists everything wrong with the checkpoint, if anything is.

    `deep` also reads all weights for NaN and Inf (in blocks, with progress on stderr); `scans`
    spares files that were read before. Weights that are pickles alone are refused unless
    `allow_pickle`; their tensors are checked after `pickle_import` has made safetensors of them.
    """
    faults = faults_of(
        info,
        allow_pickle=allow_pickle,
        trust_remote_code=trust_remote_code,
        scans=(scans or FileScans(None)) if deep else None,
    )
    raise_faults(info.path, faults)


def faults_of(
    info: CheckpointInfo,
    *,
    allow_pickle: bool = False,
    trust_remote_code: bool = False,
    scans: FileScans | None = None,
) -> list[Fault]:
    """Everything wrong with the checkpoint; weights are read only when `scans` is given."""
    faults = list(info.faults)
    if info.pickle_only and not allow_pickle:
        faults.append(_pickle_fault(info))
    # Where a shard is missing, rules about layers would only name its tensors again.
    for rule in STATIC_RULES if info.faults else (*STATIC_RULES, *LAYER_RULES):
        faults.extend(rule(info))
    if not trust_remote_code:
        faults.extend(no_custom_code(info))
    faults.extend(chat_template_works(info))
    if scans is not None and not faults:
        faults.extend(_non_finite(info, scans))
    return list(dict.fromkeys(faults))


def raise_faults(path: Path, faults: Sequence[Fault]) -> None:
    """One `UserError` for one or many faults; nothing for none."""
    if len(faults) == 1:
        raise UserError(f"checkpoint {path}: {faults[0].problem}", faults[0].mend)
    if faults:
        raise UserError(
            f"checkpoint {path} has {len(faults)} faults",
            "mend what each of them names",
            details=[str(f) for f in faults],
        )


def _pickle_fault(info: CheckpointInfo) -> Fault:
    return Fault(
        f"its weights are pickles ({info.pickle_files[0].name}), which can run code when loaded",
        "use a version with safetensors, or trust this one with --allow-pickle",
    )


def _non_finite(info: CheckpointInfo, scans: FileScans) -> list[Fault]:
    """Faults for tensors with NaN or Inf."""
    found: list[NonFinite] = []
    for file in info.weight_files:
        tensors = sorted((t for t in info.tensors if t.file == file), key=lambda t: t.offset)
        found.extend(scans.scan(file, tensors).non_finite)
    if not found:
        return []
    named = [f"{entry.tensor} ({_counts(entry)})" for entry in found[:_LISTED]]
    more = f" and {len(found) - _LISTED} more tensors" if len(found) > _LISTED else ""
    return [
        Fault(
            f"weights are not finite: {', '.join(named)}{more}",
            "fetch the weights again, or take a checkpoint from before training diverged",
        )
    ]


def _counts(entry: NonFinite) -> str:
    parts = [f"{entry.nan} NaN" if entry.nan else "", f"{entry.inf} Inf" if entry.inf else ""]
    return ", ".join(part for part in parts if part)
