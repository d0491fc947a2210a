"""Kind `checkpoint`: a Hugging Face folder, run by transformers in torch in float32."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from common.errors import UserError
from runtimes.torch_model import TorchModel
from toolchain.checkpoint.locate import model_name
from toolchain.models import OpenModel, OpenOptions

DTYPE = "float32"


def matches(path: Path) -> bool:
    """Whatever has a config.json."""
    return (path / "config.json").is_file()


def open_path(path: Path, options: OpenOptions) -> OpenModel:
    """Load the checkpoint; raises `UserError` listing its faults, or when memory is too small."""
    from toolchain.encoder_kinds.checkpoint import task_of

    if task := task_of(path):
        raise UserError(
            f"{path} is for {task}, not a language model", "edgeforge classify MODEL 'your text'"
        )
    return open_checkpoint(path, options, name=model_name(str(path)), kind="checkpoint")


def open_checkpoint(
    path: Path,
    options: OpenOptions,
    *,
    name: str,
    kind: str,
    change: Callable[[Any], Any] = lambda network: network,
) -> OpenModel:
    """Load a checkpoint whose network is handed through `change` (an adapter put on)."""
    import torch

    from toolchain.checkpoint.inspect import inspect
    from toolchain.checkpoint.validate import validate
    from toolchain.hf import end_token_ids, load_tokenizer, torch_model

    trust = options.trust_remote_code
    info = inspect(path)
    validate(info, trust_remote_code=trust, deep=False)
    tokenizer = load_tokenizer(path, trust_remote_code=trust)
    context_tokens = min(options.context_tokens, info.context_tokens or options.context_tokens)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with ExitStack() as stack:
        network = change(
            stack.enter_context(torch_model(path, device=device, trust_remote_code=trust))
        )
        held = stack.pop_all()
    runtime = TorchModel(
        network,
        tokenizer,
        eog_token_ids=end_token_ids(path, tokenizer),
        context_tokens=context_tokens,
        parallel=options.parallel,
        on_close=held.close,
    )
    return OpenModel(
        name=name,
        kind=kind,
        runtime=runtime,
        stream=runtime.stream,
        context_tokens=context_tokens,
        chat_template=runtime.chat_template,
        bos_token=tokenizer.bos_token,
        eos_token=tokenizer.eos_token,
        bos_token_id=runtime.bos_token_id,
        companion=path,
        facts={"engine": "torch", "dtype": DTYPE, "device": device},
    )
