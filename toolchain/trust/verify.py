"""Everything about a bundle that can be checked without an engine: files, manifest, signature.

verdict = verify(Path("build/edgeforge-demo/laptop"))
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.errors import UserError
from common.scratch import ScratchFolder
from toolchain.trust.contents import Contents, Folder, open_contents
from toolchain.trust.pack import unpack
from toolchain.trust.signing import KeyPair, Sigstore, signature_fault
from toolchain.trust.sums import SIGNATURE_FILE, is_covered

MANIFEST, PROFILE, ARTIFACT = "manifest.json", "profile.json", "artifact.json"
# Written after the manifest, so that it cannot name them: itself, what is made from it, the record.
_AFTER_MANIFEST = (MANIFEST, ARTIFACT, "report.md", "report.zh-CN.md")


@dataclass(frozen=True)
class Checked:
    """One thing that was looked at, and what is wrong with it."""

    name: str
    note: str
    faults: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """For `--json`."""
        return {"name": self.name, "note": self.note, "faults": list(self.faults)}


def verify(path: Path, signer: KeyPair | Sigstore | None = None) -> list[Checked]:
    """Check a bundle, a folder or a packed file. With `signer` it must be signed by them.

    Raises `UserError` when there is no bundle at `path`.
    """
    with open_contents(path) as contents:
        sums = contents.sums
        size = sum(contents.size_bytes(name) or 0 for name in sums)
        files = Checked(
            "files",
            f"{len(sums)} files, {size / 1e6:.1f} MB, as SHA256SUMS says",
            tuple(contents.faults()),
        )
        # The manifest is read from files that are known to be the bundle's.
        manifest = [] if files.faults else [_manifest(contents, sums)]
        return [files, *manifest, _signature(path, contents, signer)]


def _manifest(contents: Contents, sums: Mapping[str, str]) -> Checked:
    manifest, profile = contents.json(MANIFEST), contents.json(PROFILE)
    if not isinstance(manifest, dict) or not isinstance(profile, dict):
        return Checked("manifest", "", (f"{MANIFEST} or {PROFILE} is missing or no JSON object",))
    faults = [
        *_listed("manifest.json", manifest.get("files"), sums, _AFTER_MANIFEST),
        *_listed(ARTIFACT, _mapping(contents.json(ARTIFACT)).get("files"), sums, (ARTIFACT,)),
    ]
    model = _mapping(manifest.get("model_file"))
    name = str(model.get("name"))
    if model.get("sha256") != sums.get(name):
        faults.append(f"the digest of its model file {name} is not that of the file")
    if profile.get("model_file") != name:
        faults.append(f"{PROFILE} names {profile.get('model_file')}, {MANIFEST} {name}")
    for key in ("model", "kind"):
        if profile.get(key) != manifest.get(key):
            faults.append(f"'{key}' is not the same in {PROFILE} and {MANIFEST}")
    faults += _broken_chain(manifest, name, str(model.get("sha256")))
    base = str(_mapping(manifest.get("base")).get("digest"))[:12]
    stages = len(_list(manifest.get("chain")))
    note = (
        f"{manifest.get('model')} {manifest.get('quantization')}, {stages} stages from base {base}"
    )
    return Checked("manifest", note, tuple(faults))


def _listed(
    origin: str, listed: Any, sums: Mapping[str, str], without: tuple[str, ...]
) -> Iterator[str]:
    """Where a list of digests in the bundle is not that of SHA256SUMS."""
    named = {name: digest for name, digest in _mapping(listed).items() if is_covered(name)}
    for name in sorted(named.keys() | sums.keys()):
        if name not in without and named.get(name) != sums.get(name):
            yield f"{origin} and SHA256SUMS do not agree on {name}"


def _broken_chain(manifest: Mapping[str, Any], name: str, digest: str) -> list[str]:
    """Faults of the chain: a stage whose parent is nowhere, a model file that no stage made."""
    chain = [entry for entry in _list(manifest.get("chain")) if isinstance(entry, dict)]
    known = {str(_mapping(manifest.get("base")).get("digest"))}
    known |= set(map(str, _list(_mapping(manifest.get("data")).get("training"))))
    faults = []
    for entry in chain:
        parents = [str(parent) for parent in _list(entry.get("parents"))]
        if parents and not known & set(parents):
            faults.append(f"stage {entry.get('stage')} comes from nothing in the chain")
        known.add(str(entry.get("digest")))
    made = {str(d) for entry in chain for d in _mapping(entry.get("files")).values()}
    if digest not in made:
        faults.append(f"no stage of the chain made {name}")
    return faults


def _signature(path: Path, contents: Contents, signer: KeyPair | Sigstore | None) -> Checked:
    if signer is None:
        note = (
            "signed, not checked (--key PUBLIC_KEY checks it)" if contents.signed else "not signed"
        )
        return Checked("signature", note)
    if not contents.signed:
        return Checked("signature", "", (f"it is not signed: it has no {SIGNATURE_FILE}",))
    with _as_folder(path, contents) as folder:
        fault = signature_fault(folder, signer) if folder else "a damaged file is not checked"
    who = signer.file.name if isinstance(signer, KeyPair) else signer.identity
    return Checked("signature", f"by {who}", (fault,) if fault else ())


@contextlib.contextmanager
def _as_folder(path: Path, contents: Contents) -> Iterator[Path | None]:
    """The bundle as a folder (model-signing reads nothing else); None for a damaged archive."""
    if isinstance(contents, Folder):
        yield path
        return
    with ScratchFolder("verify") as made:
        try:
            folder: Path | None = unpack(path, Path(made) / "bundle")
        except UserError:
            folder = None
        yield folder


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}
