"""One finding for each part of the toolchain: works, works with a limit, or refused, and why.

    findings(inspect(path))

Each asks the very function that the part itself asks before its work, so a finding is what a build
would meet. No weight is read, and neither torch nor transformers is imported.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from common.errors import UserError
from toolchain.backend import is_encoder
from toolchain.checkpoint.info import CheckpointInfo

if TYPE_CHECKING:
    from toolchain.recipe import Recipe

Verdict = Literal["works", "limit", "refused"]
_LISTED = 3


@dataclass(frozen=True)
class Finding:
    """What a part will do with the model; `details` are limits or the reason of a refusal."""

    part: str
    verdict: Verdict
    details: tuple[str, ...] = ()
    mend: str = ""


def findings(info: CheckpointInfo) -> list[Finding]:
    """Every part's finding, in the order of a build."""
    return [_asked(part, info) for part in PARTS]


def require_parts(info: CheckpointInfo, recipe: Recipe, backend: str) -> None:
    """Raise a `UserError` for the first part of this build that refuses the model: before any work,
    where its stage would say so only after those before it."""
    wanted = set(_of_this_model(recipe, backend))
    for part, stages in _STAGES.items():
        if stages & wanted:
            _ask(part, info)


def _of_this_model(recipe: Recipe, backend: str) -> list[str]:
    """The stages and the backend that get this model; from `distill` on a student goes on."""
    chain = list(recipe.chain)
    if "distill" in chain and recipe.distill.student:
        return chain[: chain.index("distill")]
    return [*chain, *([backend] if "export" in recipe.stages else [])]


def _asked(part: str, info: CheckpointInfo) -> Finding:
    try:
        limits = _ask(part, info)
    except UserError as error:
        return Finding(part, "refused", (error.problem, *error.details), error.mend)
    return Finding(part, "limit" if limits else "works", tuple(limits))


def asked_alone(part: str, info: CheckpointInfo) -> list[str]:
    """The part's own answer, without what was measured of the family."""
    return PARTS[part](info)


def _ask(part: str, info: CheckpointInfo) -> list[str]:
    from toolchain.check.measured import require_measured

    return [*PARTS[part](info), *require_measured(part, info)]


def _measured(info: CheckpointInfo) -> list[str]:
    """What the matrix of families has of the model's kind."""
    from toolchain.check.measured import overview

    return overview(info)


def _tokenizer(info: CheckpointInfo) -> list[str]:
    """tokenizer.json has to load as it stands."""
    from toolchain.check.pre_tokenizer import TOKENIZER, load

    if (info.path / TOKENIZER).is_file():
        load(info.path)
        return []
    return [f"no {TOKENIZER}: transformers makes one of the {info.tokenizer_kind} files"]


def _training(info: CheckpointInfo) -> list[str]:
    """Training needs transformers' own code for the architecture."""
    from toolchain.checkpoint.architectures import native_model_types
    from toolchain.checkpoint.config_facts import expert_limit

    own = str(info.config.get("model_type"))
    if own in native_model_types():
        return expert_limit(info.text_config)
    if "auto_map" in info.config:
        return ["only with --trust-remote-code: transformers has no code of its own for it"]
    raise UserError(
        f"transformers has no code for model type '{own}'", "take a checkpoint of a known type"
    )


def _prune(info: CheckpointInfo) -> list[str]:
    """Pruning needs a layout of the tensors, and the same widths in every layer."""
    from toolchain.compress.prune.layout import find_layout
    from toolchain.compress.prune.settings import Axis
    from toolchain.compress.prune.shape import places, read_shape

    layout = find_layout(info)
    read_shape(info, layout)
    unknown = [name for name, place in places(info, layout).items() if place.axes is None]
    limits = [f"tensors that no axis is known of: {_some(unknown)}"] if unknown else []
    missing = [axis for axis in get_args(Axis) if axis not in layout.axes]
    if missing:
        limits.append(f"not along {' and '.join(missing)}")
    if layout.heads_fill_hidden and not missing:
        limits.append("groups and hidden together: heads fill the width")
    return limits


def _prune_vocab(info: CheckpointInfo) -> list[str]:
    """Cutting the vocabulary needs a layout, and a tokenizer of a known kind."""
    from toolchain.compress.prune.layout import find_layout
    from toolchain.compress.prune.shape import places
    from toolchain.compress.prune_vocab.files import TOKENIZER, read_tokenizer
    from toolchain.compress.prune_vocab.known import require_known

    require_known(info, places(info, find_layout(info)))
    if not (info.path / TOKENIZER).is_file():
        return [f"no {TOKENIZER}: transformers has to make one"]
    read_tokenizer(info.path)  # refuses kinds that cannot be cut
    return []


def _sparsify(info: CheckpointInfo) -> list[str]:
    """Zeros need a layout; patterns need rows that their groups divide."""
    from toolchain.compress.prune.layout import find_layout
    from toolchain.compress.sparse.linear import linear_weights

    own = linear_weights(info, find_layout(info))
    odd = [t.name for t in info.tensors if t.name in own and t.shape[-1] % 4]
    return [f"not in pattern 2:4, rows are no multiple of 4: {_some(odd)}"] if odd else []


def _gguf(info: CheckpointInfo) -> list[str]:
    """GGUF needs a decoder or an embedding model, and a tokenizer that llama.cpp can follow (that
    the converter knows the architecture is a rule of every checkpoint)."""
    from toolchain.check.pre_tokenizer import tokenizer_limits
    from toolchain.export.gguf.encoder import embedder_limits
    from toolchain.export.gguf.obstacles import require_computed
    from toolchain.export.gguf.window import window_limit

    if is_encoder(info):
        return embedder_limits(info)
    require_computed(info.text_config, info.path)
    return [*window_limit(info.text_config), *tokenizer_limits(info)]


def _onnx(info: CheckpointInfo) -> list[str]:
    """Decoders take the builder, or torch's exporter; encoders torch's."""
    from toolchain.export.onnx.encoder_facts import AUTO, task_of
    from toolchain.export.onnx.obstacles import builder_obstacles, require_exportable

    if is_encoder(info):
        task_of(info.path, info.config, AUTO)
        return []
    require_exportable(info)
    reasons = builder_obstacles(info)
    if not reasons:
        return []
    why = "; ".join(reasons)
    return [f"torch's exporter in place of the builder's faster graph, because {why}"]


def _ollama(info: CheckpointInfo) -> list[str]:
    """Ollama needs GGUF; versions before 0.30 need a template of a known family too."""
    from toolchain.check.special_tokens import special_token
    from toolchain.export.ollama.chat_family import ChatFamilyError, match_family

    if is_encoder(info):
        raise UserError("Ollama runs GGUF, and this model becomes ONNX")
    if info.chat_template is None:
        return ["no chat template: prompts go to the model as they are"]
    bos, eos = (special_token(info, name) for name in ("bos_token", "eos_token"))
    try:
        match_family(info.chat_template, bos_token=bos, eos_token=eos)
    except ChatFamilyError as error:
        return [f"Ollama 0.30 or newer only: {error.problem}"]
    return []


# Each returns limits, and raises `UserError` where it refuses.
PARTS: dict[str, Callable[[CheckpointInfo], list[str]]] = {
    "tokenizer": _tokenizer,
    "train": _training,
    "prune": _prune,
    "prune-vocab": _prune_vocab,
    "sparsify": _sparsify,
    "gguf": _gguf,
    "onnx": _onnx,
    "ollama": _ollama,
    "measured": _measured,
}
# What a recipe's stages and the backend `gguf` need that the plan and the first stage of a build do
# not ask themselves. (What is exported to ONNX may be another kind of model after a training.)
_STAGES: dict[str, set[str]] = {
    "train": {"finetune", "distill"},
    "prune": {"prune"},
    "prune-vocab": {"prune-vocab"},
    "sparsify": {"sparsify"},
    "gguf": {"gguf"},
}


def _some(names: Sequence[str]) -> str:
    more = len(names) - _LISTED
    return ", ".join(names[:_LISTED]) + (f" and {more} more" if more > 0 else "")
