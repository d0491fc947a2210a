"""Damaged bundles, packed bundles, artifacts and teacher caches: whatever holds a digest refuses
every changed byte, and a manifest that says something else (its sums renewed, as a hostile bundle's
are) is one error at most."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest
from fuzz_bundle import MODEL, small_cache, small_whole_bundle
from fuzz_mutators import damaged, damaged_json
from fuzz_sandbox import Outcome, Silent, each, run_cases

from common.errors import UserError
from scripts.smoke import bundle as smoke_bundle
from targets.registry import load_target
from toolchain import artifact as artifacts
from toolchain.compress.distill.cache.store import open_store, require_intact
from toolchain.device import needs_of, not_measured, require_bundle
from toolchain.encoder_kinds import bundle as encoder_bundle
from toolchain.export.ollama.check import choose_modelfile
from toolchain.export.ollama.checks import read_facts
from toolchain.model_kinds.bundle import bundled
from toolchain.report.files import write_report_files
from toolchain.trust.pack import pack, packed_name, unpack
from toolchain.trust.sums import MOST_SUMS_BYTES, parse_sums, require_sound, write_sums
from toolchain.trust.verify import verify

CASES, QUICK = 10_000, 150
pytestmark = pytest.mark.timeout(7200)  # each case has its own
_JSON = (
    "manifest.json", "profile.json", "artifact.json", "ledger.json", "log/smoke.json",
    "log/build.json", "log/devices/orin/device.json", "tokenizer/tokenizer_config.json",
)  # fmt: skip
_TEXTS = ("SHA256SUMS", "prompts.jsonl", "Modelfile")
Reader = Callable[[Random, Path, Path], None]


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("good")
    pack(small_whole_bundle(root / "bundle"), root / "packed.tar")
    small_cache(root / "cache")
    return root


def test_damaged_manifests(good: Path, tmp_path: Path, whole: bool, proven: Any) -> None:
    _prove(_manifest, "manifest", good, tmp_path, whole, proven)


def test_damaged_packed_bundles(good: Path, tmp_path: Path, whole: bool, proven: Any) -> None:
    _prove(_packed, "packed bundle", good, tmp_path, whole, proven)


def test_no_changed_byte_is_taken(good: Path, tmp_path: Path, whole: bool, proven: Any) -> None:
    outcome = _prove(_changed_byte, "changed byte under a digest", good, tmp_path, whole, proven)
    assert not outcome.counts["accepted"]


def _prove(
    reader: Reader, what: str, good: Path, folder: Path, whole: bool, proven: Callable[..., None]
) -> Outcome:
    cases = range(CASES if whole else QUICK)
    started = time.monotonic()
    outcome = run_cases(cases, lambda n, work: reader(Random(f"{what} {n}"), good, work), folder)
    if outcome.faults:
        pytest.fail(outcome.told(), pytrace=False)
    assert outcome.counts["refused"] > len(cases) / 3
    proven("4 hostile files", what, len(cases), "mutations", time.monotonic() - started)
    return outcome


def _manifest(random: Random, good: Path, work: Path) -> None:
    """One file says something else; the sums are right, or say something else themselves."""
    bundle = work / "bundle"
    _linked(good / "bundle", bundle)
    name = random.choice((*_JSON, *_JSON[:3], *_TEXTS))
    path = bundle / name
    data = path.read_bytes()
    if name in _JSON and random.random() < 0.9:
        changed = damaged_json(random, json.loads(data))
    else:
        changed = damaged(random, data)
    _replace(path, changed)
    if name == "SHA256SUMS":
        _sums(bundle, data)
    else:
        write_sums(bundle)
    _read_all(bundle)


def _sums(bundle: Path, before: bytes) -> None:
    """SHA256SUMS is taken when it says what it said before, and not otherwise."""
    if require_sound(bundle) != parse_sums(before, "before"):
        raise Silent("other sums were taken")


def _read_all(bundle: Path) -> None:
    each(
        lambda: verify(bundle),
        lambda: bundled(bundle),
        lambda: artifacts.load_sound(bundle),
        lambda: needs_of(bundle),
        lambda: not_measured(bundle),
        lambda: require_bundle(bundle, load_target("laptop")),
        lambda: read_facts(bundle, choose_modelfile(bundle, (0, 17))),
        lambda: encoder_bundle.task_of(bundle),
        lambda: packed_name(bundle),
        lambda: _smoke(bundle),
        lambda: write_report_files(bundle),
        all_must=True,
    )


def _smoke(bundle: Path) -> None:
    """What the bundle's own test reads, which has errors of its own."""
    try:
        profile = smoke_bundle.read_profile(bundle)
        smoke_bundle.verify_sums(bundle)
        smoke_bundle.read_prompts(bundle)
        smoke_bundle.adapter_of(bundle / MODEL, profile)
        smoke_bundle.bos_text(bundle)
    except smoke_bundle.CannotRun as refusal:
        raise UserError(str(refusal)) from None


def _packed(random: Random, good: Path, work: Path) -> None:
    data = (good / "packed.tar").read_bytes()
    file = work / "packed.tar"
    head = random.choice((512, 2048, MOST_SUMS_BYTES))
    file.write_bytes(
        _retold(random, data) if random.random() < 0.3 else damaged(random, data, head)
    )
    each(lambda: verify(file), lambda: _unpack(file, work / "made", good / "bundle"))
    if sorted(path.name for path in work.iterdir()) not in (["packed.tar"], ["made", "packed.tar"]):
        raise Silent("something was left behind")


def _unpack(file: Path, made: Path, bundle: Path) -> None:
    unpack(file, made)
    sums = require_sound(made)
    if sums != require_sound(bundle):
        raise Silent("another bundle was unpacked")


def _retold(random: Random, data: bytes) -> bytes:
    """A header that is whole, by its own sum, and says something else."""
    start = random.choice(
        [at for at in range(0, len(data), 512) if data[at + 257 :][:5] == b"ustar"]
    )
    header = bytearray(data[start : start + 512])
    fields = {"name": (0, 100), "mode": (100, 8), "size": (124, 12), "type": (156, 1),
              "link": (157, 100), "prefix": (345, 155)}  # fmt: skip
    at, length = fields[random.choice(list(fields))]
    outside = (b"../../../../tmp/edgeforge-outside", b"/tmp/edgeforge-outside", b"bundle/log/x")
    kinds = (b"", b"\xff\xfe", b"1", b"2", b"5", b"x", b"L", b"S")
    numbers = (b"77777777777", b"-1", b"0000000", b"\x80" + b"\xff" * 11)
    texts = (*outside, *kinds, *numbers, bytes(header[at : at + length]) + b"x")
    header[at : at + length] = random.choice(texts)[:length].ljust(length, b"\0")
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return data[:start] + bytes(header) + data[start + 512 :]


def _changed_byte(random: Random, good: Path, work: Path) -> None:
    """One byte of a bundle, an artifact's file, a teacher cache or a packed bundle."""
    kind = random.choice(("bundle", "artifact", "cache", "packed"))
    if kind == "packed":
        file = work / "packed.tar"
        shutil.copyfile(good / "packed.tar", file)
        _flip(random, file, _content_of(good / "packed.tar"))
        _unpack(file, work / "made", good / "bundle")
        return
    folder = work / kind
    _linked(good / ("cache" if kind == "cache" else "bundle"), folder)
    names = [
        path for path in sorted(folder.rglob("*")) if path.is_file() and "log" not in path.parts
    ]
    if kind == "artifact":
        names = [path for path in names if path.name not in ("SHA256SUMS", "artifact.json")]
    elif kind == "cache":
        names = [path for path in names if path.suffix == ".part"]
    _flip(random, random.choice(names))
    checks: dict[str, Callable[[], object]] = {
        "bundle": lambda: require_sound(folder),
        "artifact": lambda: artifacts.load_sound(folder),
        "cache": lambda: require_intact(folder) and open_store(folder),
    }
    checks[kind]()


def _flip(random: Random, path: Path, places: list[tuple[int, int]] | None = None) -> None:
    data = bytearray(path.read_bytes())
    first, size = random.choice(places or [(0, len(data))])
    data[first + random.randrange(size)] ^= 1 << random.randrange(8)
    _replace(path, bytes(data))


def _linked(folder: Path, copy: Path) -> None:
    """A copy whose files are links, so that no byte of a model is written ten thousand times."""
    shutil.copytree(folder, copy, copy_function=os.link)


def _replace(path: Path, data: bytes) -> None:
    """Another file under the name: what it was linked to stays."""
    path.unlink()
    path.write_bytes(data)


def _content_of(archive: Path) -> list[tuple[int, int]]:
    """Where the members' bytes lie: what pads them, and the end, mean nothing."""
    from toolchain.trust.archive import read_members

    _, members = read_members(archive)
    return [(one.offset, one.size_bytes) for one in members.values() if one.size_bytes]
