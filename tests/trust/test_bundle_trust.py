"""A real bundle: sums, verify, pack and unpack, signatures; every verb refuses one flipped bit."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from command_line import edgeforge
from tiny_bundle import make_bundle
from tiny_models import tiny_llama

from common.errors import UserError
from toolchain.cli import main
from toolchain.trust.pack import pack, unpack
from toolchain.trust.sums import require_sound, write_sums
from toolchain.trust.verify import verify


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("made")
    return make_bundle(tiny_llama(root / "tiny"), root / "build", proof=False)


@pytest.fixture
def bundle(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "laptop"))


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def faults(path: Path) -> list[str]:
    return [fault for check in verify(path) for fault in check.faults]


def test_a_sound_bundle_is_sound_also_with_a_log(
    bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (bundle / "log").mkdir()
    (bundle / "log" / "smoke.json").write_text("{}")
    assert main(["verify", str(bundle)]) == 0
    printed = capsys.readouterr().out
    assert "manifest   ok" in printed and "not signed" in printed and "sound" in printed


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda b: flip(b / "model-Q4_K_M.gguf"), "model-Q4_K_M.gguf is damaged"),
        (lambda b: (b / "Modelfile").unlink(), "Modelfile is missing"),
        (lambda b: (b / "tokenizer" / "more.json").write_text("{}"), "more.json is not covered"),
        (lambda b: (b / "there").symlink_to("/etc"), "there is a link"),
        (lambda b: (b / "log").symlink_to("/etc"), "log is a link"),
    ],
    ids=["bit", "missing", "uncovered", "link", "log_link"],
)
def test_a_damaged_bundle_is_a_failed_check_that_names_the_file(
    change: Callable[[Path], object],
    expected: str,
    bundle: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    change(bundle)
    assert main(["verify", str(bundle), "--json"]) == 1
    result = json.loads(capsys.readouterr().out)
    assert not result["sound"] and expected in str(result["checks"][0]["faults"])
    with pytest.raises(UserError, match="nothing was loaded"):
        require_sound(bundle)


def test_a_manifest_of_other_files_is_found_though_the_sums_agree(bundle: Path) -> None:
    flip(bundle / "model-Q4_K_M.gguf")
    write_sums(bundle)
    assert "the digest of its model file model-Q4_K_M.gguf is not that of the file" in faults(
        bundle
    )
    manifest = json.loads((bundle / "manifest.json").read_text("utf-8"))
    manifest["chain"][1]["parents"] = ["0" * 64]
    (bundle / "manifest.json").write_text(json.dumps(manifest), "utf-8")
    write_sums(bundle)
    assert "stage quantize comes from nothing in the chain" in faults(bundle)


def test_what_is_no_bundle_is_bad_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text.txt").write_text("hello")
    for path in (tmp_path, tmp_path / "text.txt", tmp_path / "nothing"):
        assert main(["verify", str(path)]) == 2
        assert "hint: " in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["chat", "generate", "evaluate", "serve", "smoke", "ollama"])
def test_every_verb_refuses_one_flipped_bit(
    verb: str, made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = Path(shutil.copytree(made, tmp_path / "tiny" / "laptop"))
    flip(bundle / "prompts.jsonl")
    given = [str(bundle)]
    if verb in ("smoke", "ollama"):
        if verb == "ollama" and not shutil.which("ollama"):
            pytest.skip("ollama is not installed")
        checkpoint = made.parents[1] / "tiny"
        given = ["--target", "laptop", "--out", str(tmp_path), "--model", str(checkpoint)]
    assert main([verb, *given, *(["hello"] if verb == "generate" else [])]) == 2
    assert "prompts.jsonl is damaged" in capsys.readouterr().err


def test_packing_gives_the_same_bytes_anywhere_and_unpacking_the_same_bundle(
    bundle: Path, made: Path, tmp_path: Path
) -> None:
    (bundle / "log").mkdir()
    (bundle / "log" / "smoke.json").write_text("{}")
    one, two = pack(bundle, tmp_path / "one.tar"), pack(made, tmp_path / "two.tar")
    assert one.read_bytes() == two.read_bytes()
    assert faults(one) == []
    folder = unpack(one, tmp_path / "unpacked")
    assert (folder / "SHA256SUMS").read_bytes() == (made / "SHA256SUMS").read_bytes()
    assert faults(folder) == [] and not (folder / "log").exists()
    assert unpack(one, folder) == folder
    subprocess.run(["tar", "tf", one], check=True, capture_output=True)


def test_targets_that_are_taken_are_left_alone(bundle: Path, tmp_path: Path) -> None:
    packed = pack(bundle, tmp_path / "one.tar")
    assert pack(bundle, packed) == packed  # it holds these bytes
    for other in (packed.read_bytes()[:-1], packed.read_bytes() + b"\0"):
        (tmp_path / "two.tar").write_bytes(other)
        with pytest.raises(UserError, match="is there already"):
            pack(bundle, tmp_path / "two.tar")
        assert (tmp_path / "two.tar").read_bytes() == other
    (tmp_path / "two.tar").unlink()
    flip(bundle / "Modelfile")
    before = (bundle / "Modelfile").read_bytes()
    with pytest.raises(UserError, match="is not this bundle"):
        unpack(packed, bundle)
    assert (bundle / "Modelfile").read_bytes() == before
    with pytest.raises(UserError, match="is damaged"):
        pack(bundle, tmp_path / "two.tar")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["laptop", "one.tar"]


def test_a_flipped_bit_in_a_packed_file_is_found(bundle: Path, tmp_path: Path) -> None:
    packed = pack(bundle, tmp_path / "one.tar")
    flip(packed)
    found = edgeforge("verify", packed)
    assert found.returncode == 1 and "model-Q4_K_M.gguf is damaged" in found.stdout
    refused = edgeforge("bundle", "unpack", packed, "--to", tmp_path / "out")
    assert refused.returncode == 2 and "nothing was unpacked" in refused.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["laptop", "one.tar"]
