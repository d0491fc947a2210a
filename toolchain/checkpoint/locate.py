"""From what the user gave as `model=` to a folder: the demo model, a folder, or a hub id."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

from common.errors import UserError
from common.scratch import ScratchFolder
from common.shell import typed_path

DEMO = "demo"
DEMO_NAME = "edgeforge-demo"
_DEMO_FOLDER = Path(__file__).resolve().parent.parent / "assets" / "demo-model"
_HUB_ID = re.compile(
    r"(?P<repo>[A-Za-z0-9][\w.-]*/[A-Za-z0-9_][\w.-]*)(?:@(?P<revision>[\w./-]+))?", re.ASCII
)
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")
_NAME_LENGTH = 96


def locate(
    model: str | None, *, allow_pickle: bool = False, trust_remote_code: bool = False
) -> Path:
    """The checkpoint's folder; a hub id (`org/name`, `org/name@revision`) is downloaded.

    What is on this machine goes before the hub. The download takes weights as safetensors, JSON,
    tokenizer files, chat templates, licence and README; pickles only with `allow_pickle` and only
    when there is nothing else, Python files only with `trust_remote_code`. With HF_HUB_OFFLINE=1
    only the local hub cache is used. Raises `UserError` for all that can go wrong.
    """
    here, hub_id = _here_or_hub(model)
    if here is not None:
        return here
    assert hub_id is not None
    from toolchain.checkpoint.hub import download

    return download(
        hub_id["repo"],
        hub_id["revision"],
        allow_pickle=allow_pickle,
        trust_remote_code=trust_remote_code,
    )


@contextlib.contextmanager
def headers_of(model: str | None) -> Iterator[Path]:
    """The checkpoint's folder, for looking at its headers alone. Of a hub id no weights are
    fetched: a temporary folder holds its small files, and of each weight file the header and a
    hole.

    Raises `UserError` as `locate` does.
    """
    here, hub_id = _here_or_hub(model)
    if here is not None:
        yield here
        return
    assert hub_id is not None
    from toolchain.checkpoint.hub import download
    from toolchain.checkpoint.hub_headers import fetch_headers

    with ScratchFolder("headers") as folder:
        path = Path(folder) / hub_id["repo"].rpartition("/")[2]
        path.mkdir()
        listed = fetch_headers(hub_id["repo"], hub_id["revision"], path)
        # Without the hub a whole copy in its cache does; else the download says what is wrong.
        yield path if listed else download(hub_id["repo"], hub_id["revision"])


def _here_or_hub(model: str | None) -> tuple[Path | None, re.Match[str] | None]:
    """A folder on this machine, or else what the model's name says as a hub id."""
    if model is None or model == DEMO:
        return _demo(), None
    if not model.strip():
        raise UserError("model= is empty", "give a folder, a hub id, or leave model= out")
    path = typed_path(model)
    if _exists(path):
        if not path.is_dir():
            from toolchain.checkpoint.lookalikes import what_it_is

            raise UserError(*what_it_is(path))
        return path.absolute(), None
    hub_id = _HUB_ID.fullmatch(model)
    if hub_id is None:
        raise UserError(
            f"folder {model} does not exist",
            "give a checkpoint folder, a hub id (organisation/name), or 'demo'",
        )
    return None, hub_id


def model_name(model: str | None) -> str:
    """A safe folder name for a model: letters, digits, `.`, `_` and `-`, not starting with . or -.

    A folder and a hub id give their last part; the demo model gives `edgeforge-demo`. A revision
    stays part of the name, so that two revisions do not share a build folder.
    """
    if model is None or model == DEMO:
        return DEMO_NAME
    path = typed_path(model)
    if path.absolute() == _DEMO_FOLDER:
        return DEMO_NAME
    if not _exists(path) and _HUB_ID.fullmatch(model):
        last = model.split("/", 1)[1]
    else:
        last = _telling_part(path.absolute())
    return safe_name(last)


def safe_name(text: str) -> str:
    """A text as a folder's name: letters, digits, `.`, `_`, `-`, not starting with . or -."""
    return _UNSAFE.sub("-", text).strip("-.")[:_NAME_LENGTH].rstrip("-.") or "model"


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # e.g. a name that is too long
        return False


def _telling_part(path: Path) -> str:
    """The folder's name; for a snapshot in the hub's cache the repository's name."""
    path = path.resolve() if path.name in {"", ".", ".."} or ".." in path.parts else path
    if path.parent.name == "snapshots" and path.parent.parent.name.startswith("models--"):
        return path.parent.parent.name.rpartition("--")[2]
    return path.name


def _demo() -> Path:
    if not (_DEMO_FOLDER / "config.json").is_file():
        raise UserError(
            f"the embedded demo model is missing: {_DEMO_FOLDER}",
            "restore it from git, or train it again: python scripts/train_demo_model.py",
        )
    return _DEMO_FOLDER
