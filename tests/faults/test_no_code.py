"""Part 5: a model brings data, and no code of it is ever run.

The commands here are real ones on checkpoints that try everything: own Python code at every place
where a library would look for it, pickles, templates, names made of shell syntax. What their
processes really do is written down by an audit hook in each of them.
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from command_line import edgeforge
from tiny_models import tiny_llama
from watched import Watched, watched

from common.files import lock_of, partial_of
from toolchain.export.smoke_script import smoke_script

RECIPE = """\
export: {calibration_tokens: 512}
evaluate: {max_tokens: 256, context_tokens: 64}
quality: {max_kld: 5.0}
"""
# Modules that the product or its libraries import by name: never from the current folder.
SHADOWS = (
    *("jinja2", "torch", "numpy", "json", "toolchain", "common", "runtimes", "transformers"),
    *("sitecustomize", "usercustomize", "llama_cpp", "onnxruntime", "gguf", "conversion", "setup"),
)
AUTO = ("AutoConfig", "AutoModel", "AutoModelForCausalLM", "AutoTokenizer", "AutoProcessor")
NAME = 'it\'s "a" $(touch PWNED) `touch PWNED`;touch PWNED|&\n\x1b[31m<img src=x onerror=alert(1)>'
NAMES = {
    "quotes": 'it\'s "quoted"',
    "line break": "two\nlines",
    "substitution": "$(touch PWNED)",
    "backquotes": "`touch PWNED`",
    "separator": ";touch PWNED;",
    "leading dash": "-rf",
    "option": "--help",
    "dots": "..name..",
    "space at the ends": " name ",
    "right to left": "model\u202egpj.exe",
    "zero width": "mo\u200bdel",
    "composed": "caf\u00e9",
    "decomposed": "cafe\u0301",
    "script": "<script>alert(1)",
    "terminal": "\x1b]0;title\x07\x1b[2J",
    "home": "~root",
    "format": "%s%n{0}{{7*7}}",
    "longest": "x" * 255,
    "only dots": "...",
    "drive": "C:evil",
    "emoji": "🦙",
}


def evil(mark: Path) -> str:
    """Python source that tells that it was run."""
    return f"open({str(mark)!r}, 'a').write(__file__)\n\nclass Evil: pass\n"


class Pickled:
    """An object that runs a command when it is loaded."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
        return os.system, (f"touch '{self.mark}'",)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(
        tmp_path_factory.mktemp("sound") / "tiny", hidden=64, heads=4, kv_heads=2, ffn=96
    )


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One home for all commands, so that caches are made once."""
    return tmp_path_factory.mktemp("home")


def hostile(sound: Path, place: Path, mark: Path, tokenizer_class: str | None = None) -> Path:
    """A model whose files name code of its own everywhere, with that code beside it."""
    model = Path(shutil.copytree(sound, place / NAME))
    for name in ("evil", *SHADOWS):
        (model / f"{name}.py").write_text(evil(mark))
    (model / "custom_generate").mkdir()
    (model / "custom_generate" / "generate.py").write_text(evil(mark))
    for name in ("pytorch_model.bin", "training_args.bin", "optimizer.pt"):
        (model / name).write_bytes(pickle.dumps(Pickled(mark)))
    named = dict.fromkeys(AUTO, "evil.Evil")
    edit(model / "config.json", auto_map=named, _name_or_path="$(touch PWNED)")
    tokenizer = {**named, "AutoTokenizer": ["evil.Evil", "evil.Evil"]}
    wanted = {"tokenizer_class": tokenizer_class} if tokenizer_class else {}
    edit(model / "tokenizer_config.json", auto_map=tokenizer, **wanted)
    return model


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), **changes}))


def assert_harmless(run: Watched, mark: Path, *places: Path) -> None:
    """The command did nothing but write into `places`; it told no terminal anything."""
    own = smoke_script()  # the one program that a build writes and runs
    foreign = {
        file
        for file in run.foreign_code()
        if not (file.endswith("/smoke_test.py") and _text(Path(file)) in (own, ""))
    }
    faults = {
        "code of the model ran": mark.read_text() if mark.exists() else "",
        "foreign code": foreign,
        "shells": run.shells(),
        "connections": run.far_connections(),
        "pickles": run.dangerous_pickles(),
        "libraries": run.libraries_from(*places),
        "written elsewhere": run.written_outside(*places),
        "made by a name": [path for place in places for path in place.rglob("PWNED*")],
        "traceback": "Traceback" in run.done.stderr,
        "escapes": "\x1b" in run.done.stdout + run.done.stderr,
        "not watched": not run.rows,
    }
    assert not {name: found for name, found in faults.items() if found}


def _text(file: Path) -> str:
    """A file's text; none where it has been moved away since."""
    return file.read_text("utf-8") if file.is_file() else ""


@pytest.mark.timeout(3600)
def test_a_build_runs_no_code_of_the_model(
    sound: Path, home: Path, tmp_path: Path, proven: Callable[..., None]
) -> None:
    start, mark = time.monotonic(), tmp_path / "mark"
    model = hostile(sound, tmp_path / "models", mark)
    (tmp_path / "r.yaml").write_text(RECIPE)
    out, scratch = tmp_path / "out", tmp_path / "scratch"
    words = ("build", "--target", "laptop", "--model", ".", "--recipe", tmp_path / "r.yaml")
    more = ("--out", out, "--quantization", "Q4_0")
    # Whatever asks on the terminal gets a yes.
    run = watched([*words, *more], cwd=model, scratch=scratch, home=home, stdin="y\n" * 99)
    assert run.done.returncode == 0, run.done.stderr
    assert_harmless(run, mark, out, scratch, home)
    assert "<template>" in {args[0] for args, _ in run.events("exec")}
    page = next(out.rglob("report.html")).read_text("utf-8")
    assert "<img" not in page and "onerror=alert" not in page.replace("&quot;", "")
    proven(
        "5 no code from data",
        "a GGUF build, watched",
        len(run.rows),
        "events",
        time.monotonic() - start,
    )


@pytest.mark.timeout(3600)
def test_the_converter_is_not_talked_into_code(
    sound: Path, home: Path, tmp_path: Path, proven: Callable[..., None]
) -> None:
    """llama.cpp's converter trusts a checkpoint whose tokenizer has this class, unasked."""
    start, mark = time.monotonic(), tmp_path / "mark"
    model = hostile(sound, tmp_path / "models", mark, tokenizer_class="HybridDNATokenizer")
    out, scratch = tmp_path / "out", tmp_path / "scratch"
    words = ("build", "--target", "laptop", "--model", model, "--out", out)
    run = watched(words, cwd=tmp_path, scratch=scratch, home=home, stdin="y\n" * 99)
    assert run.done.returncode == 2, run.done.stderr
    assert_harmless(run, mark, out, scratch, home)
    seconds = time.monotonic() - start
    proven("5 no code from data", "a converter that trusts", 1, "builds", seconds)


VERBS = {
    "ONNX build": ("build", "--target", "cpu-server", "--quantization", "int8-block"),
    "generate": ("generate", "MODEL", "hello", "--max-tokens", "4"),
    "evaluate": ("evaluate", "MODEL", "--text-tokens", "64"),
    "prune": ("prune", "--model", "MODEL", "--ratio", "0.24", "--no-recover"),
    "prune-vocab": ("prune-vocab", "--model", "MODEL"),
    "sparsify": ("sparsify", "--model", "MODEL", "--sparsity", "0.5", "--method", "magnitude"),
    "finetune": ("finetune", "--model", "MODEL", "--data", "DATA", "--max-steps", "2"),
    "distill": ("distill", "--model", "MODEL", "--student", "ratio=0.5", "--data", "DATA",
                "--max-steps", "2"),
    "teacher-cache": ("teacher-cache", "--model", "MODEL", "--data", "DATA"),
    "check": ("check", "MODEL"),
    "plan": ("plan", "--target", "laptop", "--model", "MODEL"),
    "data": ("data", "prepare", "DATA", "--model", "MODEL", "--max-tokens", "64"),
}  # fmt: skip


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.timeout(3600)
def test_no_verb_runs_code_of_the_model(
    verb: str, sound: Path, home: Path, tmp_path: Path, whole: bool, proven: Callable[..., None]
) -> None:
    if not whole:
        pytest.skip("in the whole suite")
    start, mark = time.monotonic(), tmp_path / "mark"
    model = hostile(sound, tmp_path / "models", mark)
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"text": f"lamp {n} is on"}) + "\n" for n in range(40)))
    (tmp_path / "r.yaml").write_text(RECIPE)
    out, scratch = tmp_path / "out", tmp_path / "scratch"
    given = {"MODEL": str(model), "DATA": str(rows)}
    words = [given.get(word, word) for word in VERBS[verb]]
    if words[0] == "build":
        words += ["--model", str(model), "--recipe", str(tmp_path / "r.yaml")]
    if words[0] not in ("generate", "evaluate", "check", "plan"):
        words += ["--out", str(out)]
    run = watched(words, cwd=model, scratch=scratch, home=home, stdin="y\n" * 99)
    assert run.done.returncode == 0, run.done.stderr
    assert_harmless(run, mark, out, partial_of(out), lock_of(out), scratch, home)
    proven(
        "5 no code from data", f"{verb}, watched", len(run.rows), "events", time.monotonic() - start
    )


def test_a_pickle_is_read_without_its_code_and_only_when_asked(
    sound: Path, home: Path, tmp_path: Path, whole: bool
) -> None:
    if not whole:
        pytest.skip("in the whole suite")
    mark, out, scratch = tmp_path / "mark", tmp_path / "out", tmp_path / "scratch"
    model = Path(shutil.copytree(sound, tmp_path / "model"))
    (model / "model.safetensors").unlink()
    (model / "pytorch_model.bin").write_bytes(pickle.dumps(Pickled(mark)))
    for flags, reason in (((), "--allow-pickle"), (("--allow-pickle",), "pytorch_model.bin")):
        words = ("build", "--target", "laptop", "--model", model, "--out", out, *flags)
        run = watched(words, cwd=model, scratch=scratch, home=home)
        assert run.done.returncode == 2 and reason in run.done.stderr, run.done.stderr
        assert_harmless(run, mark, out, scratch, home)
    # Its own process read it: this one never imported torch's loader.
    readers = [
        words for args, words in run.events("subprocess.Popen") if "pickle_process" in args[1]
    ]
    assert readers


@pytest.mark.parametrize("kind", NAMES)
def test_a_folder_may_have_any_name(
    kind: str, sound: Path, tmp_path: Path, whole: bool, proven: Callable[..., None]
) -> None:
    if not whole and kind != "terminal":
        pytest.skip("in the whole suite")
    start = time.monotonic()
    (tmp_path / "in").mkdir()
    model = tmp_path / "in" / NAMES[kind]
    model.symlink_to(sound)
    for words in (
        ("plan", "--target", "laptop", "--model", model),
        ("check", model, "--json"),
        ("plan", "--target", "laptop", "--json", "--model", f"./{NAMES[kind]}"),
    ):
        done = edgeforge(*words, cwd=tmp_path / "in")
        assert done.returncode == 0, done.stderr
        assert not set(done.stdout + done.stderr) & {"\x1b", "\x07", "\u202e"}, done.stdout
    assert list(tmp_path.iterdir()) == [tmp_path / "in"]
    assert list((tmp_path / "in").iterdir()) == [model]
    proven("5 no code from data", f"folder name: {kind}", 3, "commands", time.monotonic() - start)
