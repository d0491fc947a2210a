"""What a decoder's graph tells whoever runs it: its inputs and outputs, and how to pad a batch.

The facts that shapes do not tell lie in the file as ONNX metadata properties `edgeforge.*`. A graph
without them (made elsewhere) is run one sequence at a time, which is right for every graph.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from common.errors import UserError
from common.files import read_object

METADATA_PREFIX = "edgeforge."
LOGITS_START = "logits_start"
"""Optional input [1] of int64: the first position, counted from the end, that logits are given for.
Its default -1 gives the last position alone."""
ALL_POSITIONS = -(2**31)
GENAI_CONFIG = "genai_config.json"
_REQUIRED = ("input_ids", "attention_mask")


@dataclass(frozen=True)
class DecoderGraph:
    """`padding` is the side on which a batch's prompts are padded (None: run one at a time);
    `shared_cache`: one buffer can hold past and present. `past` are the names of the cache's
    inputs, `present` of its outputs, both in the same order; `heads` and `head_size` those of each.
    `last_only`: logits of the last position unless `logits_start` asks for more.
    """

    padding: Literal["left", "right"] | None
    shared_cache: bool
    last_only: bool
    past: tuple[str, ...]
    present: tuple[str, ...]
    heads: tuple[int, ...]
    head_size: tuple[int, ...]
    position_ids: bool
    vocab_size: int

    def properties(self) -> dict[str, str]:
        """The metadata properties that say what shapes do not."""
        return metadata_properties(self.padding, self.shared_cache, self.last_only)


def metadata_properties(padding: str | None, shared_cache: bool, last_only: bool) -> dict[str, str]:
    """Properties for a graph, names with prefix."""
    facts = {"padding": padding or "none", "shared_cache": str(int(shared_cache))}
    facts["logits"] = "last" if last_only else "all"
    return {METADATA_PREFIX + key: value for key, value in facts.items()}


def decoder_graph(session: Any, file: Path) -> DecoderGraph:
    """The facts of an open session over `file`.

    The builder's graphs do not tell the head size, the `genai_config.json` beside them does. Raises
    `UserError` when this is no decoder with a KV cache.
    """
    inputs = {value.name: value for value in session.get_inputs()}
    outputs = {value.name: value for value in session.get_outputs()}
    past = tuple(n for n in inputs if n.startswith("past_key_values."))
    present = tuple(n.replace("past_key_values.", "present.") for n in past)
    lacking = [n for n in _REQUIRED if n not in inputs]
    lacking += [n for n in ("logits", *present) if n not in outputs]
    foreign = [n for n in inputs if n not in (*_REQUIRED, "position_ids", *past)]
    if lacking or foreign or not past:
        what = ", ".join(lacking + foreign) or "past_key_values.*"
        raise UserError(
            f"{file} is no decoder with a KV cache: {what} not as expected",
            "give a graph with input_ids, attention_mask, past_key_values.* and logits, present.*",
        )
    facts: Mapping[str, str] = session.get_modelmeta().custom_metadata_map
    padding = facts.get(f"{METADATA_PREFIX}padding")
    return DecoderGraph(
        padding="left" if padding == "left" else "right" if padding == "right" else None,
        shared_cache=facts.get(f"{METADATA_PREFIX}shared_cache") == "1",
        last_only=facts.get(f"{METADATA_PREFIX}logits") == "last",
        past=past,
        present=present,
        heads=tuple(_width(inputs[n], 1, file) for n in past),
        head_size=tuple(_width(inputs[n], 3, file) for n in past),
        position_ids="position_ids" in inputs,
        vocab_size=_width(outputs["logits"], -1, file),
    )


def _width(value: Any, axis: int, file: Path) -> int:
    width = value.shape[axis] if len(value.shape or ()) > max(axis, 0) else None
    if not isinstance(width, int) and value.name.startswith("past_key_values."):
        width = _genai_head_size(file.parent)
    if not isinstance(width, int):
        raise UserError(f"{file} does not tell the width of {value.name}", "export it again")
    return width


def _genai_head_size(folder: Path) -> Any:
    path = folder / GENAI_CONFIG
    return genai_decoder(path).get("head_size") if path.is_file() else None


def genai_decoder(path: Path) -> Mapping[str, Any]:
    """What a genai_config.json says of its decoder; empty where it says nothing."""
    model = read_object(path).get("model")
    decoder = model.get("decoder") if isinstance(model, dict) else None
    return decoder if isinstance(decoder, dict) else {}
