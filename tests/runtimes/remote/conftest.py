"""A device on loopback for a whole module's tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from loopback_sshd import Server, loopback_sshd

from runtimes.remote.ssh import Connection, SshOptions, connect


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with loopback_sshd(tmp_path_factory.mktemp("device")) as running:
        yield running


@pytest.fixture
def device(server: Server) -> Iterator[Connection]:
    with connect("device", SshOptions(server.config)) as connection:
        yield connection


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return small_bundle(tmp_path / "demo" / "laptop")


def small_bundle(folder: Path, test: str = "print('fine')", size: int = 3_000_000) -> Path:
    """A folder with SHA256SUMS, as copying sees a bundle; `test` is its smoke_test.py."""
    from toolchain.export.bundle import write_sums

    (folder / "tokenizer").mkdir(parents=True)
    (folder / "model.gguf").write_bytes(bytes(range(256)) * (size // 256))
    (folder / "tokenizer" / "two words 中.json").write_text("{}")
    (folder / "smoke_test.py").write_text(test)
    write_sums(folder)
    return folder
