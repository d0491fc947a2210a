"""A model under a trial name: created, there while the block lasts, then gone whatever happens.

    with trial(client, "my-model", bundle, modelfile) as name:
        ...                              # prove it
        client.copy(name, "my-model")    # it passed

So a model that fails a check never takes the place of the one that works.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

from common.errors import UserError
from common.files import sha256_file
from runtimes.ollama import Client, OllamaError

NAMESPACE = "edgeforge-trial"
# Opens a server on the same store, to tidy up after one that died.
Reopen = Callable[[], contextlib.AbstractContextManager[Client]]


def trial_name(name: str) -> str:
    """The trial name for a model's name: always the same, so that the next trial replaces one that
    a dead server has kept."""
    return f"{NAMESPACE}/{name.rsplit('/', 1)[-1]}"


@contextlib.contextmanager
def trial(
    client: Client, name: str, bundle: Path, modelfile: Path, *, reopen: Reopen | None = None
) -> Iterator[str]:
    """Create the model under its trial name. At the end the name is removed and, unless it has
    another name by then, its files.

    `reopen` is for a server that we have started: were it to die, another one tidies up.
    Raises `UserError` with Ollama's reason when it refuses, dies or has no room.
    """
    tried = trial_name(name)
    client.exists(name)  # refuses a name that Ollama does not take, before any work
    try:
        _create(client, tried, modelfile)
        yield tried
    except UserError as error:
        if client.is_running() or (reopen is not None and _removed_later(tried, reopen)):
            raise
        raise OllamaError(
            error.problem,
            f"{error.mend}; the trial model {tried} may be left there, `ollama rm {tried}` or "
            "the next run removes it",
        ) from None
    finally:
        _remove(client, tried)


def _create(client: Client, tried: str, modelfile: Path) -> None:
    """`ollama create`; files that a failed one has brought into the store are taken out again."""
    files = {path.name: sha256_file(path) for path in sorted(modelfile.parent.glob("*.gguf"))}
    new = {name: digest for name, digest in files.items() if not client.has_blob(digest)}
    try:
        client.create(tried, modelfile)
    except UserError:
        for name, digest in new.items():
            with contextlib.suppress(OllamaError):
                if client.has_blob(digest):
                    client.forget_blob(tried, name, digest)
        raise


def _remove(client: Client, tried: str) -> None:
    with contextlib.suppress(OllamaError):
        client.unload(tried)
    with contextlib.suppress(OllamaError):
        client.remove(tried)


def _removed_later(tried: str, reopen: Reopen) -> bool:
    """Remove the trial with a server of its own; whether that went well."""
    try:
        with reopen() as client:
            if client.exists(tried):
                client.remove(tried)
    except OllamaError:
        return False
    return True
