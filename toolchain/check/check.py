"""Everything that can be said of a model without reading a weight.

checked = check(path, target=None)
checked.works     # whether any backend takes it
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.errors import UserError
from toolchain.check.parts import Finding, findings
from toolchain.check.sizes import Sizes, gguf_sizes, onnx_variants
from toolchain.checkpoint.inspect import inspect
from toolchain.checkpoint.validate import faults_of

if TYPE_CHECKING:
    from targets.schema import Target
    from toolchain.checkpoint.info import CheckpointInfo

_BACKENDS = ("gguf", "onnx")


@dataclass(frozen=True)
class Checked:
    """Facts, faults of the checkpoint (then nothing else was asked), findings and sizes."""

    info: CheckpointInfo
    target: Target | None
    faults: tuple[str, ...]
    findings: tuple[Finding, ...] = ()
    gguf: Sizes | None = None
    onnx: Sizes | None = None

    @property
    def works(self) -> bool:
        """Whether the checkpoint is whole and a backend takes it."""
        verdicts = {found.part: found.verdict for found in self.findings}
        if verdicts.get("tokenizer") == "refused":
            return False
        return any(verdicts.get(name) in ("works", "limit") for name in _BACKENDS)

    def as_json(self) -> dict[str, Any]:
        return {
            "model": self.info.name,
            **facts(self.info),
            "target": self.target.name if self.target else None,
            "works": self.works,
            "faults": list(self.faults),
            "findings": [asdict(found) for found in self.findings],
            "gguf": self.gguf.as_json() if self.gguf else None,
            "onnx": self.onnx.as_json() if self.onnx else None,
        }


def check(path: Path, target: Target | None, *, trust_remote_code: bool = False) -> Checked:
    """Ask every part about the checkpoint. Raises `UserError` only where there is nothing to go on
    (no folder, no config.json)."""
    info = inspect(path)
    faults = faults_of(info, allow_pickle=False, trust_remote_code=trust_remote_code)
    if faults:
        return Checked(info, target, tuple(map(str, faults)))
    found = {finding.part: finding for finding in findings(info)}
    gguf = _sized(found, "gguf", lambda: gguf_sizes(info, target))
    onnx = _sized(found, "onnx", lambda: onnx_variants(info, target))
    return Checked(info, target, (), tuple(found.values()), gguf, onnx)


def _sized(found: dict[str, Finding], part: str, sizes: Callable[[], Sizes]) -> Sizes | None:
    """The sizes; none where the part refuses, or where there is no plan, which is a refusal too."""
    if found[part].verdict == "refused":
        return None
    try:
        return sizes()
    except UserError as error:
        found[part] = Finding(part, "refused", (error.problem, *error.details), error.mend)
        return None


def facts(info: CheckpointInfo) -> dict[str, Any]:
    """What the headers say, as plain values."""
    return {
        "architecture": info.architecture,
        "parameters": info.parameters,
        "weight_bytes": info.weight_bytes,
        "dtypes": sorted({tensor.dtype for tensor in info.tensors}),
        "vocab_size": info.vocab_size,
        "context_tokens": info.context_tokens,
        "tied_embeddings": info.tied_embeddings,
        "tokenizer": info.tokenizer_kind,
        "chat_template": info.chat_template is not None,
        "license": info.license_id,
    }
