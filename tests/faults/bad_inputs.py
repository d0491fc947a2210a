"""Kinds of bad input, each as a command line with what its error must name.

A kind is a row of `KINDS`: a name that begins with the verb, a function that lays down what is
wrong and gives the words of the command, and a text that the error has to hold. `Place` has sound
inputs to spoil.
"""

# ruff: noqa: E501 (one kind, one line)

from __future__ import annotations

import io
import json
import os
import shutil
import struct
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.numpy import load_file, save_file
from tiny_adapters import trained_adapter
from tiny_bundle import make_bundle
from tiny_models import tiny_llama

Words = list[object]
TARGET = ("--target", "laptop")


@dataclass(frozen=True)
class Place:
    """Sound inputs in `good`, a folder of this case's own in `own`, and `out` for results."""

    good: Path
    own: Path

    @property
    def out(self) -> Path:
        return self.own / "out"

    @property
    def model(self) -> Path:
        return self.good / "tiny"

    @property
    def bundle(self) -> Path:
        return self.good / "made" / "tiny" / "laptop"

    @property
    def adapter(self) -> Path:
        return self.good / "adapter"

    def file(self, name: str, data: str | bytes) -> Path:
        """A file of this case's own."""
        path = self.own / name
        path.write_bytes(data.encode() if isinstance(data, str) else data)
        return path

    def copy(self, source: Path, name: str = "copy") -> Path:
        """A copy of a sound input, to be spoilt."""
        return Path(shutil.copytree(source, self.own / name))

    def changed(self, name: str, **changes: Any) -> Path:
        """A copy of the model with other values in one of its JSON files."""
        model = self.copy(self.model)
        path = model / name
        path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), **changes}))
        return model

    def build(self, *more: object, model: Path | None = None) -> Words:
        """A build into `out`."""
        return ["build", *TARGET, "--model", model or self.model, "--out", self.out, *more]

    def recipe(self, text: str) -> Words:
        """A build by a recipe of this text."""
        return self.build("--recipe", self.file("own.yaml", text))


def good_inputs(folder: Path) -> Path:
    """A tiny model, its bundle, an adapter of it, and rows of data."""
    model = tiny_llama(folder / "tiny", hidden=64, heads=4, kv_heads=2, ffn=96)
    make_bundle(model, folder / "made", proof=False)
    trained_adapter(model, folder / "adapter")
    rows = [{"text": f"lamp {number} is on"} for number in range(40)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


# What is wrong with a checkpoint.


def truncated(place: Place) -> Path:
    model = place.copy(place.model)
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    return model


def huge_header(place: Place) -> Path:
    model = place.copy(place.model)
    weights = model / "model.safetensors"
    weights.write_bytes(struct.pack("<Q", 1 << 62) + weights.read_bytes()[8:])
    return model


def not_numbers(place: Place) -> Path:
    model = place.copy(place.model)
    weights = load_file(model / "model.safetensors")
    weights["model.norm.weight"][0] = float("nan")
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    return model


def pickled(place: Place) -> Path:
    model = place.copy(place.model)
    (model / "model.safetensors").unlink()
    (model / "pytorch_model.bin").write_bytes(b"\x80\x04cposix\nsystem\n\x8c\x04true\x85R.")
    return model


def template(place: Place, text: str) -> Path:
    model = place.copy(place.model)
    (model / "chat_template.jinja").write_text(text)
    return model


def inline_template(place: Place, text: str) -> Path:
    model = without(place, "chat_template.jinja")
    path = model / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "chat_template": text}))
    return model


def without(place: Place, *names: str) -> Path:
    model = place.copy(place.model)
    for name in names:
        (model / name).unlink()
    return model


def with_text(place: Place, name: str, text: str | bytes) -> Path:
    model = place.copy(place.model)
    (model / name).write_bytes(text.encode() if isinstance(text, str) else text)
    return model


# What is wrong with a bundle, an adapter, a packed file, a recipe.


def flipped(place: Place) -> Path:
    bundle = place.copy(place.bundle)
    path = next(bundle.glob("*.gguf"))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    return bundle


def with_more(place: Place) -> Path:
    bundle = place.copy(place.bundle)
    (bundle / "more.txt").write_text("x")
    return bundle


def with_link(place: Place) -> Path:
    bundle = place.copy(place.bundle)
    (bundle / "tokenizer" / "link").symlink_to("/etc/passwd")
    return bundle


def without_sums(place: Place) -> Path:
    bundle = place.copy(place.bundle)
    (bundle / "SHA256SUMS").unlink()
    return bundle


def adapter(place: Place, **changes: Any) -> Path:
    folder = place.copy(place.adapter)
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return folder


def pickled_adapter(place: Place) -> Path:
    folder = place.copy(place.adapter)
    (folder / "adapter_model.safetensors").unlink()
    (folder / "adapter_model.bin").write_bytes(b"\x80\x04cposix\nsystem\n\x8c\x04true\x85R.")
    return folder


def foreign_adapter(place: Place) -> Path:
    other = tiny_llama(place.own / "other", hidden=32, heads=2, kv_heads=2, ffn=64)
    trained_adapter(other, place.own / "foreign")
    return place.own / "foreign"


def packed(place: Place, name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> Path:
    path = place.own / "packed.tar"
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for one in ("b/SHA256SUMS", name):
            info = tarfile.TarInfo(one)
            info.type = tarfile.REGTYPE if one != name else kind
            info.linkname = link if one == name else ""
            tar.addfile(info, io.BytesIO())
    return path


def unpack(place: Place, file: Path, *more: object) -> Words:
    return ["bundle", "unpack", file, "--to", place.out / "b", *more]


BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join(['*' + before] * 9)}]\n"
    for before, name in zip("abcdefghi", "bcdefghij", strict=True)
)
ENDLESS = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
PWN = "-oProxyCommand=touch PWNED"


@dataclass(frozen=True)
class Kind:
    """One kind of bad input: a name that begins with the verb, the command's words, a regular
    expression that its error must fit."""

    name: str
    words: Callable[[Place], Words]
    names: str


def _kinds() -> list[Kind]:
    rows: list[tuple[str, Callable[[Place], Words], str]] = [
        ("verb unknown", lambda p: ["biuld"], "did you mean 'build'"),
        ("option unknown", lambda p: ["build", *TARGET, "--frobnicate"], "--frobnicate"),
        ("option missing", lambda p: ["build"], "--target"),
        ("option is no choice", lambda p: ["advise", "--lang", "tlh"], "tlh"),
        ("option with an escape", lambda p: ["build", *TARGET, "--\x1b[31mred"], r"\\x1b\[31mred"),
        ("advise target unknown", lambda p: ["advise", "--target", "toaster"], "toaster"),
        ("advise model missing", lambda p: ["advise", "--model", p.own / "no"], "no does not exist"),
        ("advise memory below zero", lambda p: ["advise", "--memory-gib", "-3"], "-3"),
        ("check folder missing", lambda p: ["check", p.own / "no"], "no does not exist"),
        ("check name too long", lambda p: ["check", "x" * 5000], "xxxx"),
        ("check name with a line break", lambda p: ["check", "a\nhint: b"], r"a\\nhint: b"),
        ("check hub id out of reach", lambda p: ["check", "nobody/nothing-at-all"], "nobody/nothing"),
        ("check no checkpoint", lambda p: ["check", p.file("notes.txt", "hello")], "notes.txt"),
        ("check folder is empty", lambda p: ["check", _folder(p)], "config.json"),
        ("check config no JSON", lambda p: ["check", with_text(p, "config.json", "{")], "config.json"),
        ("check config a list", lambda p: ["check", with_text(p, "config.json", "[]")], "config.json"),
        ("check config no UTF-8", lambda p: ["check", with_text(p, "config.json", b"\xff\xfe")], "config.json"),
        ("check config nested deeply", lambda p: ["check", with_text(p, "config.json", '{"a":' * 99999)], "config.json"),
        ("plan weights truncated", lambda p: ["plan", *TARGET, "--model", truncated(p)], "model.safetensors"),
        ("plan weights' header huge", lambda p: ["plan", *TARGET, "--model", huge_header(p)], "model.safetensors"),
        ("plan weights missing", lambda p: ["plan", *TARGET, "--model", without(p, "model.safetensors")], "weights"),
        ("plan weights pickled", lambda p: ["plan", *TARGET, "--model", pickled(p)], "pickle"),
        ("plan tokenizer missing", lambda p: ["plan", *TARGET, "--model", without(p, "tokenizer.json")], "tokenizer"),
        ("plan architecture unknown", lambda p: ["plan", *TARGET, "--model", p.changed("config.json", architectures=["LlamaForCausalLN"], model_type="lama")], "LlamaForCausalLN"),
        ("plan own code", lambda p: ["plan", *TARGET, "--model", p.changed("config.json", auto_map={"AutoModelForCausalLM": "evil.Model"}, model_type="evil")], "own code"),
        ("plan already quantized", lambda p: ["plan", *TARGET, "--model", p.changed("config.json", quantization_config={"quant_method": "gptq"})], "quantized"),
        ("plan shape of another config", lambda p: ["plan", *TARGET, "--model", p.changed("config.json", hidden_size=48)], "hidden size 48"),
        ("build target unknown", lambda p: ["build", "--target", "toaster"], "toaster"),
        ("build target file no YAML", lambda p: ["build", "--target", p.file("t.yaml", "a: [")], "t.yaml"),
        ("build target file unknown key", lambda p: ["build", "--target", p.file("t.yaml", "nam: x")], "nam"),
        ("build recipe unknown", lambda p: p.build("--recipe", "exprot"), "exprot"),
        ("build recipe name too long", lambda p: p.build("--recipe", "a" * 300), "aaa"),
        ("build recipe names Python", lambda p: p.recipe("stages: !!python/object/apply:os.system [touch PWNED]"), "own.yaml"),
        ("build recipe a bomb of aliases", lambda p: p.recipe(BOMB), "own.yaml"),
        ("build recipe that holds itself", lambda p: p.recipe("export: &a [*a]"), "own.yaml"),
        ("build recipe nested deeply", lambda p: p.recipe("[" * 20000), "own.yaml"),
        ("build recipe with no date", lambda p: p.recipe("ledger: 2024-99-99"), "own.yaml"),
        ("build recipe with a long number", lambda p: p.recipe("ledger: " + "9" * 6000), "own.yaml"),
        ("build recipe too large", lambda p: p.recipe("#" * (1 << 21)), "own.yaml"),
        ("build recipe unknown key", lambda p: p.recipe("exprot: {}"), "did you mean 'export'"),
        ("build recipe a list", lambda p: p.recipe("- a"), "own.yaml"),
        ("build recipe a folder", lambda p: p.build("--recipe", _folder(p, "own.yaml")), "own.yaml"),
        ("build recipe data with a zero byte", lambda p: p.recipe('stages: [finetune]\ndata: {files: ["a\\0b"]}'), r"a\\x00b"),
        ("build recipe calibration missing", lambda p: p.recipe("export: {calibration: no.txt}"), "no.txt"),
        ("build recipe text no UTF-8", lambda p: p.recipe(f"evaluate: {{text: {p.file('t.txt', bytes([255, 254, 0]))}}}"), "t.txt"),
        ("build quantization unknown", lambda p: p.build("--quantization", "Q9_Z"), "Q9_Z"),
        ("build data missing", lambda p: p.build("--recipe", "finetune", "--data", p.own / "no.jsonl"), "no.jsonl"),
        ("build out a file", lambda p: ["build", *TARGET, "--model", p.model, "--out", p.file("out", "x")], "out"),
        ("build model no folder", lambda p: p.build(model=p.own / "no"), "no does not exist"),
        ("build template no Jinja", lambda p: p.build(model=template(p, "{% if %}")), "not valid Jinja"),
        ("plan quantization unknown", lambda p: ["plan", *TARGET, "--quantization", "Q9_Z"], "Q9_Z"),
        ("plan model missing", lambda p: ["plan", *TARGET, "--model", p.own / "no"], "no does not exist"),
        ("plan layers of another config", lambda p: ["plan", *TARGET, "--model", p.changed("config.json", num_hidden_layers=-1)], "-1 layers"),
        ("search trials zero", lambda p: ["search", *TARGET, "--trials", "0"], "0"),
        ("search ratios no numbers", lambda p: ["search", *TARGET, "--model", p.model, "--out", p.out, "--prune", "some", "--max-kld", "1"], "some"),
        ("search cache type unknown", lambda p: ["search", *TARGET, "--model", p.model, "--out", p.out, "--kv-cache", "q1", "--max-kld", "1"], "q1"),
        ("search storage no database", lambda p: ["search", *TARGET, "--model", p.model, "--out", p.out, "--storage", "gopher://x", "--max-kld", "1"], "gopher"),
        ("search study leads out", lambda p: ["search", *TARGET, "--model", p.model, "--out", p.out, "--study", "../../x", "--max-kld", "1"], "x"),
        ("smoke no bundle", lambda p: ["smoke", *TARGET, "--out", p.out], "no bundle"),
        ("smoke host an option", lambda p: ["smoke", *TARGET, "--out", p.good / "made", "--model", p.model, f"--host={PWN}"], "is no host"),
        ("smoke host with a command", lambda p: ["smoke", *TARGET, "--out", p.good / "made", "--model", p.model, "--host", "a;touch PWNED"], "is no host"),
        ("smoke user an option", lambda p: ["smoke", *TARGET, "--out", p.good / "made", "--model", p.model, "--host", "a@-oProxyCommand=x"], "is no host"),
        ("smoke fleet host an option", lambda p: ["smoke", "--fleet", p.file("f.yaml", f"devices: [{{host: '{PWN}', target: laptop}}]")], "is no host"),
        ("smoke fleet empty", lambda p: ["smoke", "--fleet", p.file("f.yaml", "devices: []")], "devices is empty"),
        ("smoke fleet missing", lambda p: ["smoke", "--fleet", p.own / "no.yaml"], "no.yaml"),
        ("bench no bundle", lambda p: ["bench", *TARGET, "--out", p.out], "bundle"),
        ("bench rounds zero", lambda p: ["bench", *TARGET, "--rounds", "0"], "0"),
        ("report no bundle", lambda p: ["report", p.own], "no bundle|is missing|has no"),
        ("report bundle damaged", lambda p: ["report", flipped(p)], "damaged"),
        ("ollama no bundle", lambda p: ["ollama", *TARGET, "--out", p.out], "bundle|no Ollama"),
        ("evaluate file truncated", lambda p: ["evaluate", p.file("m.gguf", next(p.bundle.glob("*.gguf")).read_bytes()[:9000])], "m.gguf"),
        ("evaluate file no GGUF", lambda p: ["evaluate", p.file("m.gguf", b"GGML" + bytes(999))], "m.gguf"),
        ("evaluate file empty", lambda p: ["evaluate", p.file("m.gguf", b"")], "m.gguf"),
        ("evaluate metric unknown", lambda p: ["evaluate", p.bundle, "--metrics", "vibes"], "vibes"),
        ("evaluate row no JSON", lambda p: ["evaluate", p.bundle, "--task", p.file("t.jsonl", "{")], "t.jsonl"),
        ("evaluate text empty", lambda p: ["evaluate", p.bundle, "--text", p.file("t.txt", "")], "t.txt"),
        ("evaluate bundle damaged", lambda p: ["evaluate", flipped(p)], "damaged"),
        ("chat model missing", lambda p: ["chat", p.own / "no.gguf"], "no.gguf"),
        ("chat bundle with a link", lambda p: ["chat", with_link(p)], "link"),
        ("generate bundle with a file too many", lambda p: ["generate", with_more(p), "hello"], "more.txt"),
        ("generate name too long", lambda p: ["generate", "a" * 300, "hello"], "aaa"),
        ("generate bundle without sums", lambda p: ["generate", without_sums(p), "hello"], "copy"),
        ("generate tokens zero", lambda p: ["generate", p.bundle, "hello", "--max-tokens", "0"], "0"),
        ("generate temperature no number", lambda p: ["generate", p.bundle, "x", "--temperature", "hot"], "hot"),
        ("generate adapter pickled", lambda p: ["generate", pickled_adapter(p), "x", "--base", p.model], "pickle"),
        ("generate adapter names a module", lambda p: ["generate", adapter(p, megatron_config={"a": 1}, megatron_core="evil"), "x", "--base", p.model], "megatron"),
        ("generate adapter without base", lambda p: ["generate", adapter(p, base_model_name_or_path="/no/where"), "x"], "/no/where"),
        ("generate template endless", lambda p: ["generate", template(p, ENDLESS), "hello"], "template was stopped"),
        ("generate template with half a surrogate", lambda p: ["generate", inline_template(p, "{# \ud800 #}"), "hello"], "chat template"),
        ("generate template no Jinja", lambda p: ["generate", template(p, "{% if %}"), "hello"], "not valid Jinja"),
        ("classify no classifier", lambda p: ["classify", p.model, "fine"], "copy|tiny"),
        ("classify file missing", lambda p: ["classify", p.model, "--file", p.own / "no.csv"], "no.csv|tiny"),
        ("serve port out of range", lambda p: ["serve", p.bundle, "--port", "99999"], "99999"),
        ("serve host no address", lambda p: ["serve", p.bundle, "--port", "0", "--host", "not an address"], "not an address"),
        ("serve bundle damaged", lambda p: ["serve", flipped(p), "--port", "0"], "damaged"),
        ("verify no bundle", lambda p: ["verify", p.own / "no"], "no does not exist"),
        ("verify name too long", lambda p: ["verify", "a" * 300], "aaa"),
        ("verify packed file refused", lambda p: ["verify", packed(p, "b/x", tarfile.SYMTYPE, "/etc")], "link"),
        ("sign key missing", lambda p: ["sign", p.copy(p.bundle), "--key", p.own / "no.pem"], "no.pem"),
        ("sign bundle damaged", lambda p: ["sign", flipped(p), "--key", p.file("k.pem", "x")], "damaged|k.pem"),
        ("bundle pack damaged", lambda p: ["bundle", "pack", flipped(p), "--to", p.own / "x.tar"], "damaged"),
        ("bundle pack over a file", lambda p: ["bundle", "pack", p.bundle, "--to", p.file("x.tar", "x")], "x.tar"),
        ("bundle unpack absolute", lambda p: unpack(p, packed(p, "/tmp/PWNED")), "/tmp/PWNED"),
        ("bundle unpack upwards", lambda p: unpack(p, packed(p, "b/../../PWNED")), "PWNED"),
        ("bundle unpack link", lambda p: unpack(p, packed(p, "b/x", tarfile.SYMTYPE, "/etc")), "link"),
        ("bundle unpack hard link", lambda p: unpack(p, packed(p, "b/x", tarfile.LNKTYPE, "b/SHA256SUMS")), "link"),
        ("bundle unpack device", lambda p: unpack(p, packed(p, "b/x", tarfile.CHRTYPE)), "device"),
        ("bundle unpack escape", lambda p: unpack(p, packed(p, "b/\x1b[2J")), r"\\x1b"),
        ("bundle unpack no archive", lambda p: unpack(p, p.file("x.tar", b"PK\3\4" + bytes(999))), "x.tar"),
        ("bundle unpack cut short", lambda p: unpack(p, p.file("x.tar", packed(p, "b/x").read_bytes()[:700])), "x.tar"),
        ("data prepare no columns", lambda p: ["data", "prepare", p.file("d.csv", "a,b\n1,2\n"), "--out", p.out], "d.csv"),
        ("data prepare file missing", lambda p: ["data", "prepare", p.own / "no.csv", "--out", p.out], "no.csv"),
        ("data prepare kind unknown", lambda p: ["data", "prepare", p.file("d.xlsx", "x"), "--out", p.out], "d.xlsx"),
        ("data prepare row no JSON", lambda p: ["data", "prepare", p.file("d.jsonl", '{"text": "a"}\n{'), "--out", p.out], "d.jsonl"),
        ("data prepare split above one", lambda p: ["data", "prepare", p.good / "rows.jsonl", "--split", "0.9,0.9,0.9", "--out", p.out], "0.9"),
        ("data prepare name too long", lambda p: ["data", "prepare", "a" * 300 + ".csv", "--out", p.out], "aaa"),
        ("data prepare messages nested without end", lambda p: ["data", "prepare", p.file("d.csv", 'messages\n"' + "[" * 50_000 + "]" * 50_000 + '"\n'), "--out", p.out], "d.csv"),
        ("data prepare messages of a number without end", lambda p: ["data", "prepare", p.file("d.csv", 'messages\n"[' + "9" * 5000 + ']"\n'), "--out", p.out], "d.csv"),
        ("data prepare no Parquet", lambda p: ["data", "prepare", p.file("d.parquet", b"PAR1" + bytes(99)), "--out", p.out], "d.parquet"),
        ("data sample format unknown", lambda p: ["data", "sample", "--format", "haiku", "--out", p.own / "x.csv"], "haiku"),
        ("check folder name no UTF-8", lambda p: ["check", p.copy(p.model, os.fsdecode(b"tiny\xff"))], "no UTF-8"),
        ("build out no UTF-8", lambda p: ["build", *TARGET, "--model", p.model, "--out", p.own / os.fsdecode(b"\xff")], "no UTF-8"),
        ("prune ratio above one", lambda p: ["prune", "--model", p.model, "--ratio", "1.5", "--out", p.out], "ratio|1.5"),
        ("prune axes unknown", lambda p: ["prune", "--model", p.model, "--ratio", "0.2", "--axes", "toes", "--out", p.out], "toes"),
        ("prune settings unknown key", lambda p: ["prune", "--model", p.model, "--settings", p.file("s.yaml", "ratoi: 1"), "--out", p.out], "ratoi"),
        ("prune-vocab text missing", lambda p: ["prune-vocab", "--model", p.model, "--text", p.own / "no.txt", "--out", p.out], "no.txt"),
        ("sparsify sparsity two", lambda p: ["sparsify", "--model", p.model, "--sparsity", "2", "--out", p.out], "sparsity|2"),
        ("sparsify pattern none", lambda p: ["sparsify", "--model", p.model, "--pattern", "x:y", "--out", p.out], "x:y"),
        ("finetune data missing", lambda p: ["finetune", "--model", p.model, "--data", p.own / "no.jsonl", "--out", p.out], "no.jsonl"),
        ("finetune rank zero", lambda p: ["finetune", "--model", p.model, "--data", p.good / "rows.jsonl", "--rank", "0", "--out", p.out], "rank"),
        ("finetune settings missing", lambda p: ["finetune", "--model", p.model, "--data", p.good / "rows.jsonl", "--settings", p.own / "no.yaml", "--out", p.out], "no.yaml"),
        ("finetune accelerate settings missing", lambda p: ["finetune", "--model", p.model, "--data", p.good / "rows.jsonl", "--accelerate-config", p.own / "no.yaml", "--out", p.out], "no.yaml"),
        ("distill without teacher", lambda p: ["distill", "--model", p.model, "--data", p.good / "rows.jsonl", "--out", p.out], "teacher"),
        ("distill temperature below zero", lambda p: ["distill", "--model", p.model, "--teacher", p.model, "--data", p.good / "rows.jsonl", "--temperature", "-1", "--out", p.out], "temperature"),
        ("teacher-cache no rows kept", lambda p: ["teacher-cache", "--model", p.model, "--data", p.good / "rows.jsonl", "--top-k", "0", "--out", p.out], "top_k|top-k"),
        ("teacher-cache join no cache", lambda p: ["teacher-cache", "--out", p.out, "--join", p.model], "tiny"),
        ("merge adapter missing", lambda p: ["merge", "--model", p.model, "--adapter", p.own / "no", "--out", p.out], "no does not exist"),
        ("merge adapter pickled", lambda p: ["merge", "--model", p.model, "--adapter", pickled_adapter(p), "--out", p.out], "pickle"),
        ("merge adapter of another base", lambda p: ["merge", "--model", p.model, "--adapter", foreign_adapter(p), "--out", p.out], "foreign"),
        ("merge adapter rank zero", lambda p: ["merge", "--model", p.model, "--adapter", adapter(p, r=0), "--out", p.out], "no rank"),
        ("embed-gguf no embedding model", lambda p: ["embed-gguf", "--model", p.model, "--out", p.out], "tiny|LlamaForCausalLM"),
        ("targets show unknown", lambda p: ["targets", "show", "toaster"], "toaster"),
        ("targets validate unknown key", lambda p: ["targets", "validate", p.file("t.yaml", "nam: x")], "nam"),
        ("doctor option unknown", lambda p: ["doctor", "--deep"], "--deep"),
        ("build weights no numbers", lambda p: p.build(model=not_numbers(p)), "model.norm.weight"),
        ("build template endless", lambda p: p.build(model=template(p, ENDLESS)), "template was stopped"),
    ]  # fmt: skip
    return [Kind(*row) for row in rows]


def _folder(place: Place, name: str = "empty") -> Path:
    folder = place.own / name
    folder.mkdir()
    return folder


KINDS = _kinds()
