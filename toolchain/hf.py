"""The Hugging Face side: a checkpoint's tokenizer, its weights in torch, where an answer ends."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.damage import is_panic
from common.errors import UserError
from common.files import read_object
from common.resources import explained
from runtimes.cgroup import memory_limit
from runtimes.threads import idle_cores
from toolchain.layer_widths import network_loader
from toolchain.widened import widen

if TYPE_CHECKING:
    from toolchain.checkpoint.info import CheckpointInfo

# Loading holds a little more than the weights.
_OVERHEAD = 1.1
# Classes whose every tensor must be in the weights: what is missing would be random.
HEADED = (
    "AutoModelForCausalLM",
    "AutoModelForSequenceClassification",
    "AutoModelForTokenClassification",
)

# Some damage shows only when a text is cut into tokens.
_TRIAL_TEXT = "A text: 12, naïve 把灯打开 \U0001f600\n"


def load_tokenizer(checkpoint: Path, *, trust_remote_code: bool = False) -> Any:
    """The checkpoint's tokenizer, as `transformers` loads it."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(
            checkpoint, trust_remote_code=trust_remote_code, local_files_only=True
        )
        tokenizer.decode(tokenizer(_TRIAL_TEXT)["input_ids"])
        return tokenizer
    except BaseException as error:  # tokenizers raises plain Exception, or a panic of its own
        if not isinstance(error, Exception) and not is_panic(error):
            raise
        raise explained(error) or UserError(
            f"the tokenizer of {checkpoint} does not load: {error}",
            "check tokenizer.json (or tokenizer.model) and tokenizer_config.json",
        ) from None


def token_ids(
    tokenizer: Any, text: str, *, add_special: bool, pair: str | None = None
) -> list[int]:
    """The tokenizer's ids of a text, or of a pair of texts; without its warning about texts longer
    than the context."""
    texts = (text,) if pair is None else (text, pair)
    found = tokenizer(*texts, add_special_tokens=add_special, verbose=False)
    ids: list[int] = found["input_ids"]
    return ids


@contextmanager
def torch_model(
    checkpoint: Path,
    *,
    device: str = "cpu",
    trust_remote_code: bool = False,
    auto_class: str = "AutoModelForCausalLM",
    new_head: Mapping[str, Any] | None = None,
) -> Iterator[Any]:
    """The model, computing in float32, ready to infer; freed at the end.

    `auto_class` is the class of transformers that loads it. A head that the weights lack is an
    error, unless `new_head` is given: settings of a head that others will fill.

    Where memory is short for float32 weights they stay as the checkpoint has them, and each module
    widens its own while it runs: the same results. Torch computes on the cores that are idle now.
    Raises `UserError` when memory is too small or the weights do not load.
    """
    import torch
    import transformers
    from transformers.utils import logging

    narrow = device == "cpu" and not _float32_fits(checkpoint)
    logging.disable_progress_bar()
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # what the weights lack is told below
    try:
        loader = network_loader(getattr(transformers, auto_class), checkpoint)
        model, loaded = loader.from_pretrained(
            checkpoint,
            dtype="auto" if narrow else torch.float32,
            trust_remote_code=trust_remote_code,
            local_files_only=True,
            output_loading_info=True,
            **(new_head or {}),
        )
        model = model.eval()
    except UserError:
        raise
    except Exception as error:  # transformers, safetensors and torch raise what they like
        raise explained(error) or UserError(
            f"the weights of {checkpoint} do not load in torch: {error}",
            "check the weight files, or fetch the checkpoint again",
        ) from None
    finally:
        logging.set_verbosity(verbosity)
    if auto_class in HEADED and new_head is None and loaded["missing_keys"]:
        raise UserError(
            f"the weights of {checkpoint} lack {', '.join(sorted(loaded['missing_keys'])[:3])}",
            "fetch all weights; a head that is missing must be trained: it has no meaning yet",
        )
    with idle_threads(), torch.inference_mode():
        yield widen(model) if narrow else model.to(device)


@contextmanager
def idle_threads() -> Iterator[None]:
    """Torch computes on the cores that are idle now: on busy ones its threads wait for each other,
    up to sixty times as long, as measured."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(min(before, idle_cores()))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def torch_memory_bytes(info: CheckpointInfo) -> tuple[int, int]:
    """Memory that `torch_model` needs: with float32 weights, and with weights as they are stored
    plus the largest one in float32."""
    largest = max((tensor.elements for tensor in info.tensors), default=0)
    wide = int(info.parameters * 4 * _OVERHEAD)
    return wide, int((info.weight_bytes + largest * 4) * _OVERHEAD)


def end_token_ids(checkpoint: Path, tokenizer: Any) -> list[int]:
    """Ids at which the checkpoint ends an answer: of `generation_config.json`, else of
    `config.json`, else the tokenizer's end-of-sequence token."""
    for name in ("generation_config.json", "config.json"):
        path = checkpoint / name
        value = read_object(path).get("eos_token_id") if path.is_file() else None
        ids = value if isinstance(value, list) else [value]
        if value is not None and all(type(one) is int for one in ids):
            return list(ids)
        if value is not None:
            raise UserError(f"{path} names no end: eos_token_id {str(value)[:80]}", "correct it")
    return [] if tokenizer.eos_token_id is None else [int(tokenizer.eos_token_id)]


def free_memory_bytes() -> int:
    """Memory that this process may still take; a container's limit counts."""
    import psutil

    free_bytes: int = psutil.virtual_memory().available
    limit = memory_limit()
    return min(free_bytes, limit.limit_bytes - limit.used_bytes) if limit else free_bytes


def _float32_fits(checkpoint: Path) -> bool:
    """Whether float32 weights fit; raises when not even the stored ones do."""
    from toolchain.checkpoint.inspect import inspect

    wide_bytes, stored_bytes = torch_memory_bytes(inspect(checkpoint))
    free_bytes = free_memory_bytes()
    if min(wide_bytes, stored_bytes) > free_bytes:
        raise UserError(
            f"not enough memory to run {checkpoint.name} in torch: "
            f"{min(wide_bytes, stored_bytes) / 1e9:.1f} GB needed, {free_bytes / 1e9:.1f} GB free",
            "close other programs, add swap, or build on a machine with more memory",
        )
    return wide_bytes <= free_bytes
