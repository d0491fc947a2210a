"""Copying to a device: only what changed, from where it stopped, complete or absent."""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from loopback_sshd import Server, needs_sshd

from runtimes.remote.copy import Copied, copy_bundle
from runtimes.remote.faults import DeviceError
from runtimes.remote.preflight import preflight
from runtimes.remote.ssh import Connection
from toolchain.export.bundle import write_sums

pytestmark = needs_sshd
FOLDER = "~/bundles/demo-laptop"
WAYS = [
    "ssh",
    pytest.param(
        "rsync", marks=pytest.mark.skipif(shutil.which("rsync") is None, reason="no rsync here")
    ),
]


def copied(device: Connection, bundle: Path, way: str, folder: str = FOLDER) -> Copied:
    facts = preflight(device, folder=folder)
    return copy_bundle(device, facts, bundle, folder, python="python3", rsync=way == "rsync")


def names(folder: Path) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture
def there(server: Server) -> Iterator[Path]:
    folder = server.home / "bundles" / "demo-laptop"
    yield folder
    shutil.rmtree(folder.parent, ignore_errors=True)


@pytest.mark.parametrize("way", WAYS)
def test_only_what_changed_goes_over(
    device: Connection, bundle: Path, there: Path, way: str
) -> None:
    size = sum(p.stat().st_size for p in bundle.rglob("*") if p.is_file())
    sums = (bundle / "SHA256SUMS").stat().st_size
    first = copied(device, bundle, way)
    assert (first.files, first.copied_bytes, first.way) == (3, size - sums, way)
    assert names(there) == names(bundle)
    again = copied(device, bundle, way)
    assert (again.files, again.copied_bytes, again.way) == (0, 0, "nothing")

    (bundle / "smoke_test.py").write_text("print('better')")
    (bundle / "tokenizer" / "two words 中.json").rename(bundle / "renamed.json")
    write_sums(bundle)
    (there / "log").mkdir()
    (there / "log" / "kept").touch()
    changed = copied(device, bundle, way)
    assert changed.files == 2 and changed.copied_bytes < 100
    assert names(there) == names(bundle) | {"log/kept"}
    assert (there / "SHA256SUMS").read_bytes() == (bundle / "SHA256SUMS").read_bytes()


@pytest.mark.parametrize("way", WAYS)
def test_a_changed_bit_over_there_is_mended(
    device: Connection, bundle: Path, there: Path, way: str
) -> None:
    copied(device, bundle, way)
    with (there / "model.gguf").open("r+b") as stream:
        stream.seek(1000)
        stream.write(b"\xff")
    (there / "smoke_test.py").unlink()
    (there / "smoke_test.py").symlink_to("/etc/passwd")
    assert copied(device, bundle, way).files == 2
    assert (there / "model.gguf").read_bytes() == (bundle / "model.gguf").read_bytes()
    assert not (there / "smoke_test.py").is_symlink()


def test_it_goes_on_where_it_stopped(device: Connection, bundle: Path, there: Path) -> None:
    copied(device, bundle, "ssh")
    model = there / "model.gguf"
    digest = next(
        line.split()[0]
        for line in (bundle / "SHA256SUMS").read_text().splitlines()
        if line.endswith("model.gguf")
    )
    rest = there.with_name(".demo-laptop.partial")
    (rest / digest).write_bytes(model.read_bytes()[:2_000_000])
    (rest / ("0" * 64)).write_bytes(b"of an older bundle")
    model.unlink()
    size = (bundle / "model.gguf").stat().st_size
    found = copied(device, bundle, "ssh")
    assert (found.files, found.copied_bytes) == (1, size - 2_000_000)
    assert model.read_bytes() == (bundle / "model.gguf").read_bytes()
    assert list(rest.iterdir()) == []


def test_a_part_that_is_wrong_is_thrown_away(device: Connection, bundle: Path, there: Path) -> None:
    with (bundle / "model.gguf").open("r+b") as stream:
        stream.write(b"damaged after SHA256SUMS was written")
    with pytest.raises(DeviceError, match=r"model\.gguf arrived .* another digest"):
        copied(device, bundle, "ssh")
    assert "model.gguf" not in names(there)


def test_a_folder_with_other_things_is_left_alone(
    device: Connection, bundle: Path, there: Path
) -> None:
    there.mkdir(parents=True)
    (there / "thesis.txt").write_text("the only copy")
    with pytest.raises(DeviceError, match="something else than a bundle"):
        copied(device, bundle, "ssh")
    assert names(there) == {"thesis.txt"}


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 48 MB, where this user may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", "size=48m", "none", str(folder)]
    if os.geteuid() != 0 or subprocess.run(words, capture_output=True).returncode != 0:
        pytest.skip("this user may not mount a small disk")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("way", WAYS)
def test_a_full_disk(device: Connection, bundle: Path, small_disk: Path, way: str) -> None:
    (small_disk / "others").write_bytes(bytes(30_000_000))
    folder = str(small_disk / "demo-laptop")
    with pytest.raises(DeviceError, match=r"not enough disk on device: \d+ MB needed, \d+ MB free"):
        copied(device, bundle, way, folder)
    assert sorted(p.name for p in small_disk.iterdir()) == ["others"]
    # Another program takes the room between the look and the copy.
    (small_disk / "others").unlink()
    facts = preflight(device, folder=folder)
    with pytest.raises(DeviceError, match="no space left on device"):
        _fill_while_copying(device, facts, bundle, small_disk, way)


def _fill_while_copying(
    device: Connection, facts: object, bundle: Path, disk: Path, way: str
) -> None:
    from runtimes.remote import copy

    original = copy.Call.last

    def prepared_then_full(self: copy.Call, **options: bool) -> dict[str, object]:
        found = original(self, **options)
        if found["event"] == "prepared":
            (disk / "others").write_bytes(bytes(49_000_000 - (1 << 20)))
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(copy.Call, "last", prepared_then_full)
        copy_bundle(
            device,
            dataclasses.replace(facts),  # type: ignore[type-var]
            bundle,
            str(disk / "demo-laptop"),
            python="python3",
            rsync=way == "rsync",
        )
