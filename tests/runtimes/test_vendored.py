from __future__ import annotations

import hashlib
import io
import re
import shutil
import tarfile
from pathlib import Path

import pytest

from common.errors import UserError
from runtimes import vendored

FILES = {"convert_hf_to_gguf.py": b"print('convert')\n", "gguf-py/gguf/__init__.py": b""}


def make_sdist(path: Path, files: dict[str, bytes]) -> Path:
    sdist = path / "llama_cpp_python-1.0.tar.gz"
    with tarfile.open(sdist, "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"llama_cpp_python-1.0/vendor/llama.cpp/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return sdist


@pytest.fixture
def pins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    listed = tmp_path / "files.sha256"
    rows = (f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in FILES.items())
    listed.write_text("".join(rows))
    monkeypatch.setattr(vendored, "FILES", listed)
    return listed


def test_the_installed_converter_is_whole() -> None:
    folder = vendored.llama_cpp_folder()
    assert (folder / "convert_hf_to_gguf.py").is_file()
    assert (folder / "gguf-py" / "gguf" / "constants.py").is_file()
    assert (folder / "vendor" / "nlohmann" / "json.hpp").is_file()
    assert vendored.damaged_files() == []


def test_converter_and_runtime_know_the_same_file_types() -> None:
    """Both come from one sdist: the C library's ftype numbers are those of the converter's gguf."""
    import llama_cpp

    text = (vendored.llama_cpp_folder() / "gguf-py/gguf/constants.py").read_text()
    table = re.search(r"class LlamaFileType\(IntEnum\):\n(.*?)\n\n", text, re.DOTALL)
    assert table
    python = dict(re.findall(r"^ {4}(MOSTLY_\w+)\s*=\s*(\d+)", table[1], re.MULTILINE))
    shared = {
        name: int(n) for name, n in python.items() if hasattr(llama_cpp, f"LLAMA_FTYPE_{name}")
    }
    assert len(shared) > 25
    assert shared == {name: getattr(llama_cpp, f"LLAMA_FTYPE_{name}") for name in shared}


def test_only_pinned_files_are_taken(tmp_path: Path, pins: Path) -> None:
    sdist = make_sdist(tmp_path, {**FILES, "other.py": b"x", "../../escape.py": b"x"})
    folder = vendored.unpack_llama_cpp(sdist, tmp_path / "prefix")
    assert folder == vendored.llama_cpp_folder(tmp_path / "prefix")
    taken = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    assert taken == {*FILES, vendored.STAMP}
    assert vendored.damaged_files(tmp_path / "prefix") == []
    (folder / "convert_hf_to_gguf.py").write_text("changed")
    (folder / "gguf-py/gguf/__init__.py").unlink()
    assert set(vendored.damaged_files(tmp_path / "prefix")) == set(FILES)


@pytest.mark.parametrize("fault", ["changed", "missing"])
def test_another_content_is_refused_and_leaves_nothing(
    tmp_path: Path, pins: Path, fault: str
) -> None:
    files = {**FILES, "convert_hf_to_gguf.py": b"print('evil')\n"}
    if fault == "missing":
        del files["convert_hf_to_gguf.py"]
    with pytest.raises(UserError, match=r"convert_hf_to_gguf\.py"):
        vendored.unpack_llama_cpp(make_sdist(tmp_path, files), tmp_path / "prefix")
    assert not [p for p in (tmp_path / "prefix").rglob("*") if p.is_file()]
    with pytest.raises(UserError, match="missing"):
        vendored.llama_cpp_folder(tmp_path / "prefix")


def test_a_converter_of_another_revision_is_refused(tmp_path: Path, pins: Path) -> None:
    vendored.unpack_llama_cpp(make_sdist(tmp_path, FILES), tmp_path / "prefix")
    shutil.copy(pins, tmp_path / "old.sha256")
    pins.write_text(pins.read_text() + f"{'0' * 64}  new.py\n")
    with pytest.raises(UserError, match="not the pinned revision") as caught:
        vendored.llama_cpp_folder(tmp_path / "prefix")
    assert caught.value.mend == "make setup"
