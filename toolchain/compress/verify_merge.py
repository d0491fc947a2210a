"""Proof of a merge: peft's own model and the merged checkpoint give the same logits.

Both run in float32 on a few tokens. Where the merged weights are stored in a narrower type, the
comparison takes the values before rounding, and what is stored must be exactly their rounding; the
effect of the rounding on the logits is reported beside it.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from common.errors import UserError
from common.resources import lack_of_process
from common.with_parent import with_parent
from toolchain.child import environment, module_command
from toolchain.hf import free_memory_bytes
from toolchain.layer_widths import network_loader

LIMIT = 1e-4
# On top of it for each unit of the largest logit: float32 has 7 digits, and large models lose two.
RELATIVE_LIMIT = 1e-5
TOKENS = 32
_CHILD_BYTES = 700_000_000
_MODEL_SHARE = 1.3
_MARK = "verification: "


def verify_in_child(
    base: Path, adapter: Path, merged: Path, *, trust_remote_code: bool = False
) -> dict[str, Any]:
    """`verify_merge` in a process of its own, so that the merge's memory stays bounded. Raises
    `UserError` when the logits differ; says so when the model does not fit into memory."""
    from toolchain.checkpoint.inspect import inspect

    needed = int(inspect(base).parameters * 4 * _MODEL_SHARE) + _CHILD_BYTES
    free_bytes = free_memory_bytes()
    if free_bytes < needed:
        return {
            "status": "skipped",
            "reason": f"{needed / 1e9:.1f} GB of memory needed, {free_bytes / 1e9:.1f} GB free",
        }
    command = module_command(__name__, base, adapter, merged)
    done = subprocess.run(
        with_parent([*command, *(["--trust-remote-code"] if trust_remote_code else [])]),
        capture_output=True,
        text=True,
        check=False,
        env=environment(),
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith(_MARK)]
    if done.returncode != 0 or not lines:
        said = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        doing = "comparing the merged model with peft's"
        if lack := lack_of_process(done.returncode, done.stderr, doing):
            raise lack
        raise UserError(
            f"the merged model could not be compared with peft's: {said}",
            "nothing was kept; merge with --no-verify only when you check the result yourself",
        )
    proof: dict[str, Any] = json.loads(lines[-1].removeprefix(_MARK))
    if proof["status"] == "failed":
        raise UserError(
            f"the merged model differs from base plus adapter: {proof['reason']}",
            "nothing was kept; please report this adapter's adapter_config.json",
        )
    return proof


def verify_merge(
    base: Path, adapter: Path, merged: Path, *, trust_remote_code: bool = False
) -> dict[str, Any]:
    """Compare logits of base plus adapter (peft) with those of the merged checkpoint.

    `status` is `passed` or `failed` (with `reason`); `max_abs_diff` and `limit` are in logits,
    `max_abs_diff_as_stored` includes the rounding to the stored type.
    """
    import torch

    torch.manual_seed(0)
    with torch.inference_mode():
        wanted = _peft_logits(base, adapter, trust_remote_code)
        model = _load(merged, trust_remote_code)
        stored = _logits(model)
        try:
            changed = _unround(model, base, adapter, merged)
        except AttributeError as error:  # e.g. experts that transformers fuses when it loads them
            return {"status": "skipped", "reason": f"the model stores its weights fused: {error}"}
        found = _logits(model) if changed else stored
    limit = LIMIT + RELATIVE_LIMIT * float(wanted.abs().max())
    diff = float((found - wanted).abs().max())
    proof: dict[str, Any] = {
        "status": "passed" if diff <= limit else "failed",
        "tokens": TOKENS,
        "max_abs_diff": diff,
        "max_abs_diff_as_stored": float((stored - wanted).abs().max()),
        "max_abs_logit": float(wanted.abs().max()),
        "limit": limit,
    }
    if not diff <= limit:
        proof["reason"] = f"logits differ by {diff:.3g} (limit {limit:.3g})"
    if changed is None:
        proof |= {"status": "failed", "reason": "a stored tensor is not its values' rounding"}
    return proof


def _peft_logits(base: Path, adapter: Path, trust_remote_code: bool) -> Any:
    from peft import PeftModel

    model = PeftModel.from_pretrained(_load(base, trust_remote_code), str(adapter)).eval()
    return _logits(model)


def _load(folder: Path, trust_remote_code: bool) -> Any:
    """The model of the class that the config names, in float32."""
    import torch
    import transformers

    transformers.utils.logging.disable_progress_bar()
    config = json.loads((folder / "config.json").read_text("utf-8"))
    names = config.get("architectures") or [""]
    kind = getattr(transformers, names[0], transformers.AutoModelForCausalLM)
    if trust_remote_code:
        kind = transformers.AutoModelForCausalLM
    return (
        network_loader(kind, folder)
        .from_pretrained(
            folder,
            dtype=torch.float32,
            local_files_only=True,
            trust_remote_code=trust_remote_code,
        )
        .eval()
    )


def _logits(model: Any) -> Any:
    """Logits of the same few tokens, spread over the vocabulary."""
    import torch

    vocab = model.get_input_embeddings().weight.shape[0]
    ids = torch.randint(0, vocab, (1, TOKENS), generator=torch.Generator().manual_seed(7))
    return model(input_ids=ids).logits.float().clone()


def _unround(model: Any, base: Path, adapter: Path, merged: Path) -> bool | None:
    """Put the values before rounding into the model. True when there were any, None when a stored
    tensor is not the rounding of its values."""
    import torch

    from toolchain.checkpoint.inspect import inspect
    from toolchain.compress.adapter import WEIGHTS, read_adapter
    from toolchain.compress.float_blocks import to_bytes
    from toolchain.compress.merge_arithmetic import merged_blocks
    from toolchain.compress.merge_plan import plan_merge

    result = inspect(merged)
    dtypes = {tensor.name: tensor.dtype for tensor in result.tensors}
    stored_at = {tensor.name: tensor for tensor in result.tensors}
    changed = False
    for out in plan_merge(inspect(base), read_adapter(adapter), "base").tensors:
        dtype = dtypes[out.name]
        if dtype == "F32" or (out.change is None and dtype == out.base.dtype):
            continue
        changed = True
        parameter = out.change.parameter if out.change else out.name
        flat = _parameter(model, parameter).data.view(-1)
        position = 0
        header = stored_at[out.name]
        with contextlib.ExitStack() as stack:
            files = (out.base.file, adapter / WEIGHTS, header.file)
            streams = [stack.enter_context(path.open("rb")) for path in files]
            streams[2].seek(header.offset)
            for block in merged_blocks(out, streams[0], streams[1]):
                rounded = to_bytes(block, dtype, out.name)
                if streams[2].read(rounded.nbytes) != rounded.tobytes():
                    return None
                values = torch.from_numpy(block.reshape(-1))
                flat[position : position + values.numel()] = values
                position += values.numel()
    return changed


def _parameter(model: Any, name: str) -> Any:
    """A parameter by the checkpoint's name, which may lack the model's own prefix."""
    with contextlib.suppress(AttributeError):
        return model.get_parameter(name)
    return model.get_parameter(f"{model.base_model_prefix}.{name}")


if __name__ == "__main__":
    _base, _adapter, _merged = map(Path, sys.argv[1:4])
    _trust = "--trust-remote-code" in sys.argv
    print(_MARK + json.dumps(verify_merge(_base, _adapter, _merged, trust_remote_code=_trust)))
