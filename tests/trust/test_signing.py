"""Signatures with real keys: who signed what, and what is refused."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from common.errors import UserError
from toolchain.cli import main
from toolchain.trust.pack import pack
from toolchain.trust.signing import KeyPair, sign, signature_fault
from toolchain.trust.sums import write_sums

pytest.importorskip("model_signing", reason="the extra sign is not installed")


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two key pairs, one.pem with one.pub and two.pem with two.pub, and an RSA key."""
    from cryptography.hazmat.primitives import serialization as form
    from cryptography.hazmat.primitives.asymmetric import ec, rsa

    folder = tmp_path_factory.mktemp("keys")
    made = {name: ec.generate_private_key(ec.SECP256R1()) for name in ("one", "two", "locked")}
    for name, key in {**made, "rsa": rsa.generate_private_key(65537, 2048)}.items():
        lock = form.BestAvailableEncryption(b"secret") if name == "locked" else form.NoEncryption()
        private = key.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, lock)
        (folder / f"{name}.pem").write_bytes(private)
        public = form.PublicFormat.SubjectPublicKeyInfo
        (folder / f"{name}.pub").write_bytes(
            key.public_key().public_bytes(form.Encoding.PEM, public)
        )
    return folder


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """Enough of a bundle for signatures."""
    folder = tmp_path / "laptop"
    (folder / "tokenizer").mkdir(parents=True)
    (folder / "model.gguf").write_bytes(b"weights")
    (folder / "tokenizer" / "tokenizer.json").write_text("{}")
    (folder / ".gitignore").write_text("nothing\n")
    (folder / "profile.json").write_text('{"model": "tiny", "target": "laptop"}')
    write_sums(folder)
    (folder / "log").mkdir()
    (folder / "log" / "smoke.json").write_text("{}")
    return folder


def test_a_signature_holds_for_its_key_and_its_bytes_alone(keys: Path, bundle: Path) -> None:
    sign(bundle, KeyPair(keys / "one.pem"))
    assert signature_fault(bundle, KeyPair(keys / "one.pub")) is None
    assert "no signature of it" in str(signature_fault(bundle, KeyPair(keys / "two.pub")))
    (bundle / "log" / "smoke.json").write_text("another time")
    assert signature_fault(bundle, KeyPair(keys / "one.pub")) is None
    # Whoever changes a file can renew SHA256SUMS, but not the signature; git's files count too.
    (bundle / ".gitignore").write_text("something\n")
    write_sums(bundle)
    assert ".gitignore" in str(signature_fault(bundle, KeyPair(keys / "one.pub")))


def test_a_signed_bundle_stays_sound_packed_and_for_the_smoke_test(
    keys: Path, bundle: Path, tmp_path: Path
) -> None:
    sign(bundle, KeyPair(keys / "one.pem"))
    from scripts.smoke.bundle import verify_sums

    assert verify_sums(bundle) == []
    packed = pack(bundle, tmp_path / "x.tar")
    for path in (bundle, packed):
        checks = _signature_check(path, keys / "one.pub")
        assert checks == ()
        assert "no signature of it" in str(_signature_check(path, keys / "two.pub"))


def test_the_tool_of_model_signing_agrees(keys: Path, bundle: Path) -> None:
    sign(bundle, KeyPair(keys / "one.pem"))
    command = [sys.executable, "-m", "model_signing", "verify", "key", bundle]
    command += ["--signature", bundle / "model.sig", "--public_key", keys / "one.pub"]
    command += ["--no-ignore-git-paths"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr + done.stdout


def test_an_unsigned_bundle_fails_where_a_key_is_asked_for(
    keys: Path, bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", str(bundle), "--key", str(keys / "one.pub")]) == 1
    assert "it is not signed" in capsys.readouterr().out


def test_keys_that_cannot_be_used_are_named_and_nothing_is_written(
    keys: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, reason in (
        ("none.pem", "cannot be read"),
        ("one.pub", "holds no private key"),
        ("rsa.pem", "no elliptic-curve key"),
        ("locked.pem", "has a password"),
    ):
        with pytest.raises(UserError, match=reason):
            sign(bundle, KeyPair(keys / name))
        assert not (bundle / "model.sig").exists()
    monkeypatch.setenv("EDGEFORGE_KEY_PASSWORD", "secret")
    sign(bundle, KeyPair(keys / "locked.pem"))
    assert signature_fault(bundle, KeyPair(keys / "locked.pub")) is None


def test_a_damaged_bundle_is_not_signed(keys: Path, bundle: Path) -> None:
    (bundle / "model.gguf").write_bytes(b"weightz")
    with pytest.raises(UserError, match="is damaged"):
        sign(bundle, KeyPair(keys / "one.pem"))


def test_signing_again_takes_the_old_signatures_place(keys: Path, bundle: Path) -> None:
    sign(bundle, KeyPair(keys / "one.pem"))
    before = hashlib.sha256((bundle / "model.sig").read_bytes()).digest()
    sign(bundle, KeyPair(keys / "two.pem"))
    assert hashlib.sha256((bundle / "model.sig").read_bytes()).digest() != before
    assert signature_fault(bundle, KeyPair(keys / "two.pub")) is None
    assert sorted(path.name for path in bundle.parent.iterdir()) == ["laptop"]


def test_without_the_extra_it_says_what_to_install(
    keys: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "model_signing", None)
    with pytest.raises(UserError, match="need the extra 'sign'"):
        sign(bundle, KeyPair(keys / "one.pem"))


def test_openssl_keys_work(bundle: Path, tmp_path: Path) -> None:
    if not shutil.which("openssl"):
        pytest.skip("openssl is not installed")
    key, public = tmp_path / "k.pem", tmp_path / "k.pub"
    new = ["openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", key]
    subprocess.run(new, check=True, capture_output=True)
    own = ["openssl", "ec", "-in", key, "-pubout", "-out", public]
    subprocess.run(own, check=True, capture_output=True)
    sign(bundle, KeyPair(key))
    assert signature_fault(bundle, KeyPair(public)) is None


def _signature_check(path: Path, key: Path) -> tuple[str, ...]:
    from toolchain.trust.verify import verify

    return next(check.faults for check in verify(path, KeyPair(key)) if check.name == "signature")
