"""Download a checkpoint from the Hugging Face hub: only the files in use, with clear errors."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from common.errors import UserError
from common.files import require_free_bytes

SAFETENSORS = ("model*.safetensors", "model.safetensors.index.json")
PICKLES = ("pytorch_model*.bin", "pytorch_model.bin.index.json")
CODE = ("*.py",)
SMALL = (
    "config.json", "generation_config.json", "*token*.json", "tokenizer.model", "*.tiktoken",
    "tekken.json", "spiece.model", "sentencepiece.bpe.model", "vocab.*", "merges.txt",
    "chat_template.*", "edgeforge/*", "LICEN*", "COPYING*", "NOTICE*", "README.md",
)  # fmt: skip
_NO_WEIGHTS = "choose a repository of the model with safetensors weights"


def download(
    repo: str, revision: str | None, *, allow_pickle: bool = False, trust_remote_code: bool = False
) -> Path:
    """The snapshot's folder in the hub cache, downloaded as far as it is not there yet.

    Raises `UserError` when the hub cannot be reached and the cache has no complete copy, when
    repository or revision do not exist or need a login, when there are no weights to use, and
    when the disk is too small.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import DryRunError

    named = f"{repo}@{revision}" if revision else repo
    patterns = [*SMALL, *SAFETENSORS, *(CODE if trust_remote_code else ())]
    try:
        try:
            listed = snapshot_download(repo, revision=revision, dry_run=True)
        except DryRunError:  # no connection: whatever the cache has
            listed = []
            patterns += PICKLES if allow_pickle else ()
        if listed and pickles_wanted(named, [entry.filename for entry in listed], allow_pickle):
            patterns += PICKLES
        _require_disk(named, listed, patterns)
        return Path(snapshot_download(repo, revision=revision, allow_patterns=patterns))
    except UserError:
        raise
    except Exception as error:
        told = explained(error, named, repo)
        if told is None:
            raise
        raise told from error


def pickles_wanted(named: str, names: list[str], allow_pickle: bool) -> bool:
    """Whether the pickles must be fetched; `UserError` when the repository has nothing to use."""
    if matching(names, SAFETENSORS):
        return False
    if matching(names, PICKLES):
        if allow_pickle:
            return True
        raise UserError(
            f"{named} on the hub has only pickle weights, which can run code when loaded",
            "choose a repository with safetensors, or trust this one with --allow-pickle",
        )
    if any(name.endswith(".gguf") for name in names):
        raise UserError(
            f"{named} on the hub holds GGUF files, no checkpoint",
            "give the repository of the original checkpoint",
        )
    if "adapter_config.json" in names:
        raise UserError(
            f"{named} on the hub is an adapter", "merge it into its base model and give the result"
        )
    raise UserError(f"{named} on the hub has no weights to use", _NO_WEIGHTS)


def matching(names: list[str], patterns: tuple[str, ...] | list[str]) -> list[str]:
    from huggingface_hub.utils import filter_repo_objects

    return list(filter_repo_objects(names, allow_patterns=list(patterns)))


def _require_disk(named: str, listed: list[Any], patterns: list[str]) -> None:
    from huggingface_hub.constants import HF_HUB_CACHE

    wanted = set(matching([entry.filename for entry in listed], patterns))
    needed_bytes = sum(
        entry.file_size or 0 for entry in listed if entry.will_download and entry.filename in wanted
    )
    if needed_bytes:
        require_free_bytes(Path(HF_HUB_CACHE), needed_bytes, f"the download of {named}")


def explained(error: Exception, named: str, repo: str) -> UserError | None:
    """The user's error for what the hub's client raised; None for what is no user's fault."""
    from huggingface_hub import errors

    if isinstance(error, errors.GatedRepoError):
        return UserError(
            f"{repo} on the hub is gated: its licence must be accepted first",
            "accept it on the model's page, then `hf auth login` or set HF_TOKEN",
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return UserError(
            f"{repo} is neither a folder here nor a repository on the hub that you may see",
            "check the name; for a private repository `hf auth login` or set HF_TOKEN",
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return UserError(
            f"{named}: the hub's {repo} has no such revision",
            "give an existing branch, tag or commit",
        )
    if isinstance(error, errors.HFValidationError):
        return UserError(f"{named} is no valid hub id: {error}", "give organisation/name")
    if isinstance(error, errors.LocalEntryNotFoundError | errors.OfflineModeIsEnabled):
        return _unreachable(named)
    if isinstance(error, errors.HfHubHTTPError):
        status = error.response.status_code if error.response is not None else "no status"
        return UserError(f"{named}: the hub answered {status}", "try again later, or give a folder")
    if _is_connection_error(error):
        return _unreachable(named)
    if isinstance(error, OSError):
        return UserError(
            f"{named} could not be downloaded: {error}", "free some space or set HF_HOME"
        )
    return None


def _unreachable(named: str) -> UserError:
    from huggingface_hub.constants import ENDPOINT, is_offline_mode

    if is_offline_mode():
        return UserError(
            f"{named} is no folder here, not complete in the hub cache, and HF_HUB_OFFLINE is set",
            "unset HF_HUB_OFFLINE, or give a checkpoint folder",
        )
    return UserError(
        f"{named} is no folder here, and the hub at {os.environ.get('HF_ENDPOINT', ENDPOINT)} "
        "cannot be reached",
        "give a checkpoint folder, check the network, or set HF_ENDPOINT to a mirror",
    )


def _is_connection_error(error: BaseException | None) -> bool:
    """Whether an HTTP client's transport error is in the chain (whichever client it uses)."""
    while error is not None:
        module = type(error).__module__.partition(".")[0]
        if isinstance(error, ConnectionError | TimeoutError) or module.startswith(
            ("httpx", "httpcore", "requests", "urllib3")
        ):
            return True
        error = error.__cause__
    return False
