"""Kind `onnx`: a folder with a decoder's ONNX graph and its tokenizer, run by onnxruntime."""

from __future__ import annotations

from pathlib import Path

from runtimes.ort import SessionSettings, model_bytes
from runtimes.ort_decoder import GRAPH, OrtDecoder
from toolchain.models import OpenModel, OpenOptions

_OTHER_KINDS = ("profile.json", "adapter_config.json")


def matches(path: Path) -> bool:
    """A folder with model.onnx that is no bundle."""
    known = any((path / name).is_file() for name in _OTHER_KINDS)
    return (path / GRAPH).is_file() and not known


def open_path(path: Path, options: OpenOptions) -> OpenModel:
    """Open graph and tokenizer; raises `UserError` when one of them is broken or missing."""
    return open_folder(path, options, name=path.name, kind="onnx")


def open_folder(path: Path, options: OpenOptions, *, name: str, kind: str) -> OpenModel:
    """Open a decoder's folder under a name."""
    from toolchain.checkpoint.inspect import inspect
    from toolchain.hf import end_token_ids, load_tokenizer

    tokenizer = load_tokenizer(path, trust_remote_code=options.trust_remote_code)
    trained = inspect(path).context_tokens if (path / "config.json").is_file() else None
    context_tokens = min(options.context_tokens, trained or options.context_tokens)
    runtime = OrtDecoder(
        path,
        tokenizer,
        eog_token_ids=end_token_ids(path, tokenizer),
        context_tokens=context_tokens,
        parallel=options.parallel,
        settings=SessionSettings(threads=options.threads),
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
        facts={
            "engine": "onnxruntime",
            "file": GRAPH,
            "size_bytes": model_bytes(path / GRAPH),
        },
    )
