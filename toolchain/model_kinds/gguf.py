"""Kind `gguf`: one GGUF file, or a folder that holds exactly one, run by llama.cpp."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from common.errors import UserError
from common.files import write_json
from common.scratch import ScratchFolder
from runtimes.llama import LlamaModel
from runtimes.llama_stream import LlamaStream
from toolchain.models import OpenModel, OpenOptions

_OTHER_KINDS = ("config.json", "profile.json", "adapter_config.json")


def matches(path: Path) -> bool:
    """A `.gguf` file, or a folder of such and of no other kind."""
    if path.is_file():
        return path.suffix == ".gguf"
    known = any((path / name).is_file() for name in _OTHER_KINDS)
    return not known and any(path.glob("*.gguf"))


def open_path(path: Path, options: OpenOptions) -> OpenModel:
    """Open the file. Raises `UserError` with llama.cpp's own words when it does not load."""
    return open_file(_only_file(path), path.stem, options)


def open_file(
    file: Path,
    name: str,
    options: OpenOptions,
    *,
    kind: str = "gguf",
    kv_cache_type: str = "f16",
    companion: Path | None = None,
    flash_attention: bool | None = None,
    stop_texts: Sequence[str] = (),
    adapter: Path | None = None,
) -> OpenModel:
    """Open a GGUF; its chat format is the one inside the file. `stop_texts` end an answer too."""
    model = LlamaModel(
        file,
        context_tokens=options.context_tokens,
        exact=options.exact,
        kv_cache_type=kv_cache_type,
        parallel=options.parallel,
        threads=options.threads,
        flash_attention=flash_attention,
        stop_texts=stop_texts,
        adapter=adapter,
        check_weights=kind == "gguf",  # a bundle's digests were held against its files
    )
    scratch = None if companion else ScratchFolder("companion")
    bos, eos = (
        None if token is None else model.detokenize([token], special=True)
        for token in (model.bos_token_id, model.eos_token_id)
    )
    made = Path(scratch.name) if scratch else None
    if made:
        tokens = {"bos_token": bos, "eos_token": eos, "chat_template": model.chat_template}
        write_json(made / "tokenizer_config.json", tokens)
    folder = companion or made
    assert folder is not None  # given, or made above
    return OpenModel(
        name=name,
        kind=kind,
        runtime=model,
        stream=LlamaStream(model),
        context_tokens=min(options.context_tokens, model.train_context_tokens),
        chat_template=model.chat_template,
        bos_token=bos,
        eos_token=eos,
        bos_token_id=model.bos_token_id,
        companion=folder,
        facts={
            "engine": "llama.cpp",
            "file": file.name,
            "size_bytes": file.stat().st_size,
            "kv_cache_type": "f32" if options.exact else kv_cache_type,
        },
        on_close=(scratch.cleanup,) if scratch else (),
    )


def _only_file(path: Path) -> Path:
    if path.is_file():
        return path
    files = sorted(path.glob("*.gguf"))
    if len(files) != 1:
        names = ", ".join(file.name for file in files[:5])
        raise UserError(f"{path} holds {len(files)} GGUF files: {names}", "name one of them")
    return files[0]
