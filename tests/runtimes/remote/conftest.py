"""A device on loopback for a whole module's tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from loopback_sshd import Server, loopback_sshd
from small_bundle import small_bundle

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
