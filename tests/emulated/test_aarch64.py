"""The same GGUF on an emulated Arm CPU and on this one: `make test-aarch64` (opt-in).

Kernels of another CPU round differently: F32 and Q8_0 give equal greedy tokens, smaller types agree
for a part of the way, and every type loses as much there as here (KLD to F32).
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from common.files import sha256_file
from runtimes.llama import LlamaModel
from runtimes.quantizer import quantize
from toolchain.artifact import Artifact
from toolchain.checkpoint.locate import locate
from toolchain.data.text import COMPANION_FOLDER
from toolchain.evaluate.logits import compare_positions
from toolchain.export.gguf import convert
from toolchain.pipeline import Workspace, run_stage

PROGRAM = Path(os.environ.get("EDGEFORGE_AARCH64", ""), "llama-simple")
PERPLEXITY = PROGRAM.with_name("llama-perplexity")
LIBRARIES = Path("/usr/aarch64-linux-gnu")
TOKENS = 48
PROMPTS = (
    "<|im_start|>user\nTurn on the lights in the kitchen<|im_end|>\n<|im_start|>assistant\n",
    "<|im_start|>user\n把客厅的灯调到百分之四十<|im_end|>\n<|im_start|>assistant\n",
)
EXACT = ("F32", "Q8_0")
MIN_AGREEING = {"Q4_0": 0.5, "Q4_K_M": 0.5}
WINDOW, WINDOWS = 64, 6

pytestmark = [
    pytest.mark.skipif(
        "EDGEFORGE_AARCH64" not in os.environ or not PROGRAM.is_file(),
        reason="opt-in: make test-aarch64 builds llama.cpp for aarch64 first",
    ),
    pytest.mark.skipif(shutil.which("qemu-aarch64") is None, reason="no qemu-user"),
]


@pytest.fixture(scope="module")
def f32(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo model, unquantized."""
    checkpoint = locate("demo")
    files = {p.name: sha256_file(p) for p in sorted(checkpoint.iterdir()) if p.is_file()}
    source = Artifact(checkpoint, "hf", files, "checkpoint")
    workspace = Workspace(tmp_path_factory.mktemp("aarch64") / "demo")
    settings = convert.Config(intermediate="f32", model_name="demo")
    converted = run_stage(convert, source, settings, workspace)
    return next(converted.path.glob("*.gguf"))


@pytest.fixture(params=[*EXACT, *MIN_AGREEING])
def model(request: pytest.FixtureRequest, f32: Path) -> Iterator[tuple[str, Path]]:
    kind = str(request.param)
    if kind == "F32":
        yield kind, f32
        return
    path = f32.with_name(f"{kind}.gguf")
    quantize(f32, path, kind)
    yield kind, path
    path.unlink()


def on_arm(model: Path, prompt: str) -> str:
    """Prompt and greedy answer as llama-simple prints them, control tokens included."""
    command = ["qemu-aarch64", "-L", str(LIBRARIES), "-cpu", "max", str(PROGRAM), "-m", str(model)]
    done = subprocess.run(
        [*command, "-n", str(TOKENS), "-ngl", "0", prompt], capture_output=True, timeout=280
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.decode("utf-8", "replace").strip()


def here(model: Path, prompt: str) -> tuple[list[bytes], list[bytes]]:
    """The pieces of the prompt and of the greedy answer on this CPU."""
    import llama_cpp

    with_prompt = len(prompt.encode()) + TOKENS
    llm = llama_cpp.Llama(str(model), n_ctx=with_prompt, n_threads=2, verbose=False)
    try:
        ids = llm.tokenize(prompt.encode(), add_bos=True, special=True)
        answer: list[int] = []
        for token in llm.generate(ids, top_k=1, temp=0.0, repeat_penalty=1.0):
            # llama-simple counts the same: the answer's first token comes with the prompt's batch.
            if llama_cpp.llama_vocab_is_eog(llm._model.vocab, token) or len(answer) == TOKENS:
                break
            answer.append(token)
        return [[llm.detokenize([t], special=True) for t in part] for part in (ids, answer)]  # type: ignore[return-value]
    finally:
        llm.close()


@pytest.mark.parametrize("prompt", PROMPTS)
def test_greedy_tokens(model: tuple[str, Path], prompt: str) -> None:
    kind, path = model
    asked, answer = here(path, prompt)
    there = on_arm(path, prompt)
    start = b"".join(asked).decode("utf-8", "replace").strip()
    assert there.startswith(start)
    said = there[len(start) :].lstrip()
    agreeing = agreeing_tokens(answer, said)
    print(f"{kind}: {agreeing} of {len(answer)} tokens agree: {said!r}")
    if kind in EXACT:
        assert said == b"".join(answer).decode("utf-8", "replace").strip()
        assert agreeing == len(answer)
    else:
        assert agreeing >= MIN_AGREEING[kind] * len(answer)


@pytest.fixture(scope="module")
def arm_base(f32: Path, text: Path) -> Path:
    """What F32 says on the emulated CPU, as llama-perplexity keeps it."""
    base = f32.with_name("f32.kld")
    perplexity("-m", f32, "-f", text, "--save-all-logits", base)
    return base


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Held-out text of the demo model's kind, without the control tokens of a chat."""
    path = tmp_path_factory.mktemp("text") / "held-out.txt"
    rows = (locate("demo") / COMPANION_FOLDER / "evaluation.jsonl").read_text("utf-8").splitlines()
    turns = [turn["content"] for row in rows[:200] for turn in json.loads(row)["messages"]]
    path.write_text("\n".join(turns), "utf-8")
    return path


@pytest.mark.parametrize("kind", ["Q8_0", *MIN_AGREEING])
def test_kld_is_that_of_this_cpu(f32: Path, arm_base: Path, text: Path, kind: str) -> None:
    model = f32.with_name(f"{kind}-kld.gguf")
    quantize(f32, model, kind)
    said = perplexity("-m", model, "--kl-divergence-base", arm_base, "--kl-divergence")
    found = re.search(r"Mean\s+KLD:\s*([\d.]+)", said)
    assert found, said[-2000:]
    there, own = float(found.group(1)), kld_here(f32, model, text)
    print(f"{kind}: KLD to F32 {there:.6f} there, {own:.6f} here")
    # llama-perplexity keeps the base's logarithms in 16 bits, which blurs the smallest KLDs.
    assert there == pytest.approx(own, rel=0.1, abs=5e-4)


def perplexity(*arguments: object) -> str:
    """What the emulated llama-perplexity prints."""
    command = ["qemu-aarch64", "-L", str(LIBRARIES), "-cpu", "max", str(PERPLEXITY)]
    sizes = ["-c", str(WINDOW), "-b", str(WINDOW), "--chunks", str(WINDOWS), "-t", "2", "-ngl", "0"]
    done = subprocess.run(
        [*command, *map(str, arguments), *sizes], capture_output=True, timeout=1200
    )
    said = (done.stdout + done.stderr).decode("utf-8", "replace")
    assert done.returncode == 0, said[-2000:]
    return said


def kld_here(f32: Path, model: Path, text: Path) -> float:
    """The same figure on this CPU: windows of the text, the second half of each scored."""
    ids = {}
    parts = []
    for path in (f32, model):
        with LlamaModel(path, context_tokens=WINDOW) as opened:
            tokens = opened.tokenize(text.read_text("utf-8"), add_special=True)
            windows = [tokens[i * WINDOW : (i + 1) * WINDOW] for i in range(WINDOWS)]
            bos = tokens[0] == opened.bos_token_id
            starts = [[tokens[0] if bos else window[0], *window[1:]] for window in windows]
            parts.append(np.concatenate([opened.logits(w)[WINDOW // 2 : -1] for w in starts]))
            ids[path] = starts
    targets = np.concatenate([np.array(w[WINDOW // 2 + 1 :], np.int32) for w in ids[f32]])
    return float(compare_positions(parts[0], parts[1], targets).kld.mean())


def agreeing_tokens(pieces: list[bytes], said: str) -> int:
    """How many whole pieces of one answer the other one begins with."""
    data, count, place = said.encode(), 0, 0
    pieces = [pieces[0].lstrip(), *pieces[1:]] if pieces else []
    while count < len(pieces) and data[place:].startswith(pieces[count]):
        place += len(pieces[count])
        count += 1
    return count
