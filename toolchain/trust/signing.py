"""Sign a bundle, and hold a bundle against its signature, with OpenSSF's model-signing.

    sign(bundle, KeyPair(private))          # writes model.sig into the bundle
    check_signature(bundle, KeyPair(public))

The signature lists every file of the bundle with its SHA-256, SHA256SUMS included; only `log/` and
itself it leaves out, and says so. `model_signing verify key` verifies it as well, on a machine that
has no EdgeForge.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.errors import UserError
from common.files import PARTIAL_SUFFIX, put_in_place
from toolchain.trust.sums import LOG_FOLDER, SIGNATURE_FILE, require_sound

PASSWORD_VARIABLE = "EDGEFORGE_KEY_PASSWORD"
_INSTALL = "pip install 'edgeforge[sign]', or make setup, which installs it too"


@dataclass(frozen=True)
class KeyPair:
    """A PEM file: the private key to sign with, the public one to verify with."""

    file: Path


@dataclass(frozen=True)
class Sigstore:
    """Sigstore's public service: who signed, and which service vouched for them. Both are needed to
    verify; signing opens the browser, or takes the identity of a CI job. Needs a network."""

    identity: str | None = None
    issuer: str | None = None


def sign(bundle: Path, signer: KeyPair | Sigstore) -> Path:
    """Sign a sound bundle; its `model.sig`, which takes the place of one that was there.

    Raises `UserError` when the bundle is damaged, the key cannot be used, or model-signing is not
    installed.
    """
    library = _library()
    require_sound(bundle)
    config = library.signing.Config().set_hashing_config(_hashing(library, bundle))
    if isinstance(signer, KeyPair):
        password = require_key(signer.file, private=True)
        config.use_elliptic_key_signer(private_key=signer.file, password=password)
    else:
        config.use_sigstore_signer(use_ambient_credentials=True)
    final = bundle / SIGNATURE_FILE
    partial = bundle.parent / f".{bundle.name}-{SIGNATURE_FILE}{PARTIAL_SUFFIX}"
    try:
        config.sign(bundle, partial)
        put_in_place(partial, final)
    except Exception as error:  # model-signing, sigstore and the network raise what they like
        raise UserError(
            f"{bundle} cannot be signed: {_words(error)}", "look at the key or the network"
        ) from None
    finally:
        partial.unlink(missing_ok=True)
    return final


def signature_fault(bundle: Path, verifier: KeyPair | Sigstore) -> str | None:
    """Why the bundle's signature is not that of the key or identity; None when it is.

    Raises `UserError` when the key cannot be read or model-signing is not installed.
    """
    library = _library()
    signature = bundle / SIGNATURE_FILE
    config = library.verifying.Config().set_hashing_config(_hashing(library, bundle))
    if isinstance(verifier, KeyPair):
        require_key(verifier.file, private=False)
        config.use_elliptic_key_verifier(public_key=verifier.file)
    else:
        identity, issuer = verifier.identity, verifier.issuer
        config.use_sigstore_verifier(identity=identity, oidc_issuer=issuer)
    if signature.is_symlink() or not signature.is_file():
        return f"it is not signed: it has no {SIGNATURE_FILE}"
    try:
        config.verify(bundle, signature)
    except Exception as error:
        return f"{SIGNATURE_FILE} is no signature of it by this signer ({_words(error)})"
    return None


def require_key(file: Path, *, private: bool) -> bytes | None:
    """The key's password, where it has one (model-signing wants bytes, whatever its types say).

    Raises `UserError` when a PEM file holds no elliptic-curve key of this kind.
    """
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    kind = "private" if private else "public"
    mend = "make a key pair: docs/bundles.md has the two commands"
    try:
        data = file.read_bytes()
    except OSError as error:
        raise UserError(f"{kind} key {file} cannot be read: {error.strerror}", mend) from None
    secret = os.environ.get(PASSWORD_VARIABLE)
    password = secret.encode() if secret and b"ENCRYPTED" in data else None
    try:
        key: Any = (
            serialization.load_pem_private_key(data, password)
            if private
            else serialization.load_pem_public_key(data)
        )
    except TypeError:
        raise UserError(
            f"private key {file} has a password", f"put it into {PASSWORD_VARIABLE}"
        ) from None
    except Exception:  # cryptography raises several kinds
        raise UserError(f"{file} holds no {kind} key in PEM form", mend) from None
    wanted = ec.EllipticCurvePrivateKey if private else ec.EllipticCurvePublicKey
    if not isinstance(key, wanted):
        raise UserError(f"{file} is no elliptic-curve key", mend)
    return password


def _library() -> Any:
    try:
        import model_signing
        import model_signing.hashing
        import model_signing.signing
        import model_signing.verifying
    except ImportError as error:
        raise UserError(f"signatures need the extra 'sign' ({error})", _INSTALL) from None
    return model_signing


def _hashing(library: Any, bundle: Path) -> Any:
    """Every file counts, git's too; links are refused."""
    ignored = [bundle / LOG_FOLDER, bundle / SIGNATURE_FILE]
    config = library.hashing.Config().use_file_serialization(hashing_algorithm="sha256")
    return config.set_ignored_paths(paths=ignored, ignore_git_paths=False)


def _words(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) < 300 else f"{text[:300]}…"
