"""What a checkpoint's tensors are called, and how they are shaped, in its GGUF.

The architecture's GGUF name is read from the sources of llama.cpp's converter (the class that
registers the checkpoint's architecture says `model_arch`); tensor names come from gguf's table.
Experts, which checkpoints keep one by one, are stacked as the converter stacks them.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from common.errors import UserError
from runtimes.vendored import llama_cpp_folder
from toolchain.checkpoint.config_facts import is_buffer, layer_count, output_head
from toolchain.checkpoint.info import CheckpointInfo

Shape = tuple[int, ...]

_EXPERT = re.compile(r"\.experts\.(\d+)\.")
# Towers and draft heads that the converter leaves out of the language model's file.
_OTHER_TOWER = re.compile(r"vision|visual|audio|image|speech|multi_modal_projector|mtp\.")
_OUTER_PREFIX = "language_model."
# GPT-2 keeps linear weights as (in, out); the converter transposes them.
_TRANSPOSED = re.compile(r"\.(c_attn|c_proj|c_fc)\.weight$")
_MMPROJ = "MMPROJ"


def gguf_architecture(architecture: str) -> str:
    """GGUF's name of a Hugging Face architecture (`MistralForCausalLM` → `llama`).

    Raises `UserError` when the converter does not know it.
    """
    import gguf

    member = _converter_member(architecture, llama_cpp_folder() / "conversion")
    if member is None:
        raise UserError(
            f"no plan for architecture '{architecture}': llama.cpp's converter does not know it",
            "use a model of another architecture",
        )
    known = {arch.name: name for arch, name in gguf.MODEL_ARCH_NAMES.items()}
    return str(known.get(member, member.lower()))


def gguf_tensors(
    info: CheckpointInfo, architecture: str, layers: int
) -> tuple[list[tuple[str, Shape]], list[str]]:
    """Names and shapes of the GGUF's tensors (PyTorch's order); source names gguf's table lacks.

    A tensor that the table lacks keeps its own name, so its size still counts. Architectures newer
    than the gguf library are looked up in Llama's table.
    """
    import gguf

    members = {name: member for member, name in gguf.MODEL_ARCH_NAMES.items()}
    member = members.get(architecture, gguf.MODEL_ARCH.LLAMA)
    table = gguf.get_tensor_name_map(member, layers)
    found: dict[str, Shape] = {}
    experts: dict[str, int] = {}
    unknown: list[str] = []
    for name, shape in language_model_tensors(info):
        plain = _EXPERT.sub(".experts.", name)
        mapped = table.get_name(_scored(plain), try_suffixes=(".weight", ".bias"))
        if mapped is None:
            if _OTHER_TOWER.search(name):
                continue
            unknown.append(name)
            mapped = plain
        if plain != name:
            experts[mapped] = experts.get(mapped, 0) + 1
        transposed = architecture == "gpt2" and _TRANSPOSED.search(name)
        found[mapped] = shape[::-1] if transposed else shape
    stacked = [(n, (experts[n], *s) if n in experts else s) for n, s in found.items()]
    return [*stacked, *_rope_factors(info)], unknown


def weight_names(info: CheckpointInfo) -> Callable[[str], str | None]:
    """A function from a weight's name in torch to its name in the GGUF, or nothing."""
    import gguf

    architecture = gguf_architecture(info.architecture or "")
    members = {name: member for member, name in gguf.MODEL_ARCH_NAMES.items()}
    layers = layer_count(info.text_config) or 0
    table = gguf.get_tensor_name_map(members.get(architecture, gguf.MODEL_ARCH.LLAMA), layers)

    def name(weight: str) -> str | None:
        plain = weight.replace(_OUTER_PREFIX, "")
        found = table.get_name(plain, try_suffixes=(".weight", ".bias"))
        return None if found is None else str(found)

    return name


def language_model_tensors(info: CheckpointInfo) -> Iterator[tuple[str, Shape]]:
    """The checkpoint's tensors that its GGUF has, in the order of `gguf_tensors`."""
    head = output_head([tensor.name for tensor in info.tensors]) if info.tied_embeddings else None
    for tensor in info.tensors:
        if tensor.name != head and not is_buffer(tensor.name):
            yield tensor.name.replace(_OUTER_PREFIX, ""), tensor.shape


def _scored(name: str) -> str:
    return name.replace("e_score_correction_bias", "e_score_correction.bias")


def _rope_factors(info: CheckpointInfo) -> Iterator[tuple[str, Shape]]:
    """The frequency factors that the converter adds for Llama 3's rope scaling."""
    config = info.text_config
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if rope.get("rope_type", rope.get("type")) == "llama3":
        dim = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
        yield "rope_freqs.weight", (int(dim) // 2,)


def _converter_member(architecture: str, folder: Path) -> str | None:
    """Name of the `MODEL_ARCH` member that the converter writes for this architecture."""
    sources = {p: p.read_text(encoding="utf-8") for p in folder.glob("*.py") if p.name[0] != "_"}
    for text in (text for text in sources.values() if f'"{architecture}"' in text):
        for node in ast.parse(text).body:
            if isinstance(node, ast.ClassDef) and architecture in _registered(node):
                member = _model_arch(node, list(sources.values()))
                if member not in (None, _MMPROJ):
                    return member
    return None


def _registered(node: ast.ClassDef) -> list[object]:
    return [
        argument.value
        for decorator in node.decorator_list
        if isinstance(decorator, ast.Call)
        and isinstance(decorator.func, ast.Attribute)
        and decorator.func.attr == "register"
        for argument in decorator.args
        if isinstance(argument, ast.Constant)
    ]


def _model_arch(node: ast.ClassDef, sources: Sequence[str]) -> str | None:
    """The class's `model_arch = gguf.MODEL_ARCH.NAME`, or that of its first base that has one."""
    for statement in node.body:
        target = statement.targets[0] if isinstance(statement, ast.Assign) else None
        if isinstance(target, ast.Name) and target.id == "model_arch":
            value = statement.value if isinstance(statement, ast.Assign) else None
            return value.attr if isinstance(value, ast.Attribute) else None
    for base in node.bases:
        parent = _class(base.id, sources) if isinstance(base, ast.Name) else None
        if parent is not None and (member := _model_arch(parent, sources)) is not None:
            return member
    return None


def _class(name: str, sources: Sequence[str]) -> ast.ClassDef | None:
    start = re.compile(rf"^class {re.escape(name)}\b", re.MULTILINE)
    for text in (text for text in sources if start.search(text)):
        for node in ast.parse(text).body:
            if isinstance(node, ast.ClassDef) and node.name == name:
                return node
    return None
