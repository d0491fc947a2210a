"""Of a hub id only headers are fetched, and what is read of them is what the weights would say."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from checkpoint_files import weights, write_checkpoint
from hub_server import Hub, serve

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = """
import sys
from common.errors import UserError
from toolchain.checkpoint.inspect import inspect
from toolchain.checkpoint.locate import headers_of
from toolchain.checkpoint.validate import faults_of
try:
    with headers_of(sys.argv[1]) as path:
        info = inspect(path)
        print(info.name, info.parameters, info.weight_bytes, [str(f) for f in faults_of(info)])
except UserError as error:
    sys.exit(str(error))
"""


def run(model: str, home: Path, url: str, offline: bool = False) -> tuple[int, str, str]:
    """In a process of its own, because the hub's client reads its settings once."""
    env = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    env |= {"HF_HOME": str(home), "HF_ENDPOINT": url, "HF_HUB_DISABLE_TELEMETRY": "1"}
    env |= {"NO_PROXY": "127.0.0.1", "HF_HUB_OFFLINE": "1" if offline else "0"}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, model], cwd=ROOT, env=env, capture_output=True, text=True
    )
    return done.returncode, done.stdout.strip(), done.stderr


def repository(folder: Path) -> Path:
    """A checkpoint of which the weights are far larger than their header."""
    large = weights()
    large["model.embed_tokens.weight"] = np.zeros((48, 32), dtype="float32")
    large["vision_tower.filler"] = np.zeros(2_000_000, dtype="float32")
    return write_checkpoint(folder, tensors=large)


def test_headers_alone_are_fetched(tmp_path: Path) -> None:
    source = repository(tmp_path / "repo")
    size = (source / "model.safetensors").stat().st_size
    with serve(Hub({"org/name": source})) as hub:
        code, out, err = run("org/name", tmp_path / "hf", hub.url)
        assert code == 0, err
        assert hub.ranges == {"model.safetensors": 1 << 16}
        assert "model.safetensors" not in hub.fetched
        name, parameters, weight_bytes, faults = out.split(" ", 3)
        assert (name, faults) == ("name", "[]")
        assert int(weight_bytes) == 4 * int(parameters) > size - 10_000


def test_a_server_without_ranges_is_not_read_to_the_end(tmp_path: Path) -> None:
    source = repository(tmp_path / "repo")
    with serve(Hub({"org/name": source}, whole=True)) as hub:
        code, out, err = run("org/name", tmp_path / "hf", hub.url)
    assert code == 0, err
    assert out.endswith("[]")


def test_offline_and_absent_are_one_clear_error(tmp_path: Path) -> None:
    with serve(Hub({})) as hub:
        code, _, err = run("org/name", tmp_path / "hf", hub.url, offline=True)
        assert code == 1
        assert "HF_HUB_OFFLINE is set" in err
        code, _, err = run("org/name", tmp_path / "hf", hub.url)
        assert code == 1
        assert "org/name is neither a folder here nor a repository" in err
    code, _, err = run("org/name", tmp_path / "hf", hub.url)
    assert code == 1
    assert "cannot be reached" in err
    assert "Traceback" not in err
