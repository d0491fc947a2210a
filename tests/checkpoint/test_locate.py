"""What `model=` leads to: a folder, the demo model, a download over HTTP, or one error."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from checkpoint_files import snapshot, write, write_checkpoint
from hub_server import Hub, serve

from common.errors import UserError
from toolchain.checkpoint import locate as locate_module
from toolchain.checkpoint.locate import locate, model_name

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = """
import sys
from common.errors import UserError
from toolchain.checkpoint.locate import locate
try:
    pickle, code = "pickle" in sys.argv, "code" in sys.argv
    print(locate(sys.argv[1], allow_pickle=pickle, trust_remote_code=code))
except UserError as error:
    sys.exit(str(error))
"""


def run_locate(
    model: str, home: Path, url: str, *options: str, offline: bool = False
) -> tuple[int, str, str]:
    """Run `locate` in a process of its own, because the hub's client reads its settings once."""
    env = {
        key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING"))
    }
    env |= {"HF_HOME": str(home), "HF_ENDPOINT": url, "HF_HUB_DISABLE_TELEMETRY": "1"}
    env |= {"NO_PROXY": "127.0.0.1", "HF_HUB_OFFLINE": "1" if offline else "0"}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, model, *options],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
        timeout=120,
    )
    return done.returncode, done.stdout.strip(), done.stderr


def repository(folder: Path) -> Path:
    write_checkpoint(folder, shards=2)
    (folder / "README.md").write_text("---\nlicense: mit\n---\n")
    (folder / "LICENSE").write_text("MIT")
    (folder / "pytorch_model.bin").write_bytes(b"pickle")
    (folder / "modeling.py").write_text("print()")
    (folder / "picture.png").write_bytes(b"png")
    (folder / "onnx").mkdir()
    (folder / "onnx" / "model.onnx").write_bytes(b"onnx")
    (folder / "edgeforge").mkdir()
    (folder / "edgeforge" / "task.jsonl").write_text("{}\n")
    return folder


WANTED = {
    "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json",
    "model.safetensors.index.json", "model-00001-of-00002.safetensors",
    "model-00002-of-00002.safetensors", "README.md", "LICENSE", "edgeforge/task.jsonl",
}  # fmt: skip


def test_download_takes_what_is_used_and_no_more(tmp_path: Path) -> None:
    source = repository(tmp_path / "repo")
    with serve(Hub({"org/name": source})) as hub:
        code, out, err = run_locate("org/name", tmp_path / "hf", hub.url)
        assert code == 0, err
        assert set(hub.fetched) == WANTED
        folder = Path(out)
        for name in WANTED:
            assert (folder / name).read_bytes() == (source / name).read_bytes()
        hub.fetched.clear()
        assert run_locate("org/name@main", tmp_path / "hf", hub.url)[1] == out
        assert hub.fetched == [], "a second call downloads nothing"
        code, _, err = run_locate("org/name", tmp_path / "hf", hub.url, "code")
        assert code == 0, err
        assert hub.fetched == ["modeling.py"]
    assert model_name(out) == "name"
    assert run_locate("org/name", tmp_path / "hf", hub.url)[:2] == (0, out), "hub gone: the cache"


def test_offline_uses_the_cache_or_says_so(tmp_path: Path) -> None:
    with serve(Hub({"org/name": repository(tmp_path / "repo")})) as hub:
        home = tmp_path / "hf"
        code, _, err = run_locate("org/name", home, hub.url, offline=True)
        assert code == 1
        assert "HF_HUB_OFFLINE is set" in err
        assert hub.fetched == []
        _, out, _ = run_locate("org/name", home, hub.url)
        assert run_locate("org/name", home, hub.url, offline=True)[:2] == (0, out)


def test_pickle_only_repository(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "repo")
    (source / "model.safetensors").rename(source / "pytorch_model.bin")
    with serve(Hub({"org/old": source})) as hub:
        code, _, err = run_locate("org/old", tmp_path / "hf", hub.url)
        assert code == 1
        assert "only pickle weights" in err
        assert "--allow-pickle" in err
        assert hub.fetched == []
        code, out, err = run_locate("org/old", tmp_path / "hf", hub.url, "pickle")
        assert code == 0, err
        assert (Path(out) / "pytorch_model.bin").is_file()


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("org/absent", ["org/absent is neither a folder here nor a repository", "check the name"]),
        ("org/gated", ["org/gated on the hub is gated", "hf auth login"]),
        ("org/name@v9", ["org/name@v9", "no such revision", "branch, tag or commit"]),
        ("org/gguf", ["holds GGUF files", "original checkpoint"]),
        ("org/adapter", ["is an adapter", "merge it"]),
        ("org/nothing", ["has no weights", "safetensors"]),
    ],
)
def test_hub_errors_are_told_once(model: str, expected: list[str], tmp_path: Path) -> None:
    for name, file in (("gguf", "a.gguf"), ("adapter", "adapter_config.json"), ("nothing", "x.md")):
        (tmp_path / name).mkdir()
        write(tmp_path / name / file, {})
    good = repository(tmp_path / "name")
    repos = {f"org/{n}": tmp_path / n for n in ("gguf", "adapter", "nothing")}
    with serve(Hub({**repos, "org/name": good, "org/gated": good}, gated={"org/gated"})) as hub:
        code, out, err = run_locate(model, tmp_path / "hf", hub.url)
    assert (code, out) == (1, "")
    assert "Traceback" not in err
    for part in expected:
        assert part in err
    assert hub.fetched == []


def test_unreachable_and_broken_hub(tmp_path: Path) -> None:
    with serve(Hub({}, broken=True)) as hub:
        code, _, err = run_locate("org/name", tmp_path / "hf", hub.url)
    assert code == 1
    assert "org/name" in err
    assert "503" in err or "cannot be reached" in err
    code, _, err = run_locate("org/name", tmp_path / "hf", hub.url)  # nothing listens any more
    assert code == 1
    assert f"the hub at {hub.url} cannot be reached" in err
    assert "HF_ENDPOINT" in err


def test_folder_goes_before_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_checkpoint(tmp_path / "org" / "name")
    monkeypatch.chdir(tmp_path)
    assert locate("org/name") == tmp_path / "org" / "name"


@pytest.mark.parametrize(
    "model",
    ["./a/b", "/no/such/folder", "~/no-such", "name", "a/b/c", "a/..", "~x/y", "y" * 999, "o/\0"],
)
def test_missing_path_is_not_asked_from_the_hub(model: str, tmp_path: Path) -> None:
    before = snapshot(tmp_path)
    with pytest.raises(UserError, match="does not exist"):
        locate(model)
    assert snapshot(tmp_path) == before


def test_empty_model_is_no_folder() -> None:
    with pytest.raises(UserError, match="model= is empty"):
        locate(" ")


def test_missing_demo_model_says_how_to_mend(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locate_module, "_DEMO_FOLDER", tmp_path / "demo-model")
    for model in (None, "demo"):
        with pytest.raises(UserError, match="train_demo_model"):
            locate(model)
    write_checkpoint(tmp_path / "demo-model")
    assert locate(None) == locate("demo") == tmp_path / "demo-model"


@pytest.mark.parametrize(
    ("model", "name"),
    [
        (None, "edgeforge-demo"),
        ("demo", "edgeforge-demo"),
        ("Qwen/Qwen2.5-0.5B-Instruct", "Qwen2.5-0.5B-Instruct"),
        ("org/name@v1.0", "name-v1.0"),
        ("/models/my model (1)/", "my-model-1"),
        ("/models/..hidden", "hidden"),
        ("/models/-rf", "rf"),
        ("/models/日本", "model"),
        ("/models/a/../b", "b"),
        ("/", "model"),
    ],
)
def test_model_name_is_a_safe_folder_name(model: str | None, name: str) -> None:
    assert model_name(model) == name


def test_model_name_of_relative_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "inner").mkdir()
    monkeypatch.chdir(tmp_path / "inner")
    assert model_name(".") == "inner"
    assert model_name("..") == tmp_path.name
    assert len(model_name("x" * 500)) < 100


def test_locating_imports_nothing_heavy() -> None:
    code = (
        "import sys, toolchain.checkpoint.locate as l; l.model_name('a/b');"
        "sys.exit(' '.join({'torch','transformers','numpy','huggingface_hub','pydantic','yaml'}"
        " & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
