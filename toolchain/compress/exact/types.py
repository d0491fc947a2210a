"""Which type each weight of a network has in the GGUF that the export will write.

    types = block_types(inspect(path), network, "Q4_0")    # {"model.layers.0.…weight": "Q4_0", …}

llama.cpp's own quantizer answers, run dry: its mixes, its fallbacks and the recipe's own
`tensor_types` are honoured.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from common.errors import UserError
from runtimes.quantizer import canonical_quantization
from toolchain.checkpoint.info import CheckpointInfo
from toolchain.gguf_names import weight_names
from toolchain.plan import predicted_tensors

_UNQUANTIZED = "F32"
_MENDED_ELSEWHERE = "leave distill.exact and gptq out, and quantize with an importance matrix"


def block_types(
    info: CheckpointInfo,
    network: Any,
    quantization: str,
    *,
    with_imatrix: bool = False,
    tensor_types: Mapping[str, str] | None = None,
    pure: bool = False,
) -> dict[str, str]:
    """The type of each of the network's parameters that the file does not keep in F32, by the
    parameter's name. A tied head counts as the embedding.

    Raises `UserError` for an unknown type, and for a network whose matrices are kept in another
    form than the file's (experts in one tensor, transposed linear weights).
    """
    predicted, _ = predicted_tensors(
        info,
        [quantization],
        with_imatrix=with_imatrix,
        tensor_types=tensor_types,
        pure=pure,
    )
    wanted = {
        tensor.name: tensor
        for tensor in predicted[canonical_quantization(quantization)]
        if tensor.actual != _UNQUANTIZED and len(tensor.shape) > 1
    }
    gguf_name = weight_names(info)
    found: dict[str, str] = {}
    for name, parameter in network.named_parameters():
        tensor = wanted.pop(gguf_name(name) or "", None)
        if tensor is None:
            continue
        if tuple(parameter.shape) != tensor.shape or not _as_in_file(_owner(network, name)):
            raise _other_form(name)
        found[name] = tensor.actual
    if wanted:
        raise _other_form(next(iter(wanted)))
    return found


def _owner(network: Any, parameter: str) -> Any:
    return network.get_submodule(parameter.rpartition(".")[0])


def _as_in_file(module: Any) -> bool:
    """Whether the module keeps its weight as a matrix of the file, [outputs, inputs]; an embedding
    that the network multiplies afterwards (Gemma) does."""
    return any(kind.__name__ in ("Linear", "Embedding") for kind in type(module).__mro__)


def _other_form(name: str) -> UserError:
    return UserError(
        f"{name} cannot get blocks of its own: the network keeps it in another form than the file",
        _MENDED_ELSEWHERE,
    )
