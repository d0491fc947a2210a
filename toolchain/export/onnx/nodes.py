"""Make ONNX nodes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onnx import NodeProto

MICROSOFT = "com.microsoft"


def node_of(
    kind: str, inputs: list[str], outputs: list[str], *, domain: str = MICROSOFT, **attributes: Any
) -> NodeProto:
    """A node of onnxruntime's operators, or with domain "" of standard ONNX."""
    from onnx import helper

    node: NodeProto = helper.make_node(kind, inputs, outputs, domain=domain, **attributes)
    return node
