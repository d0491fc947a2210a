"""Export a causal language model with torch.onnx.export, in a process of its own.

    python -m toolchain.export.onnx.torch_driver REQUEST.json

The request names `checkpoint`, `out`, `method` (`torchscript` or `dynamo`), `trust_remote_code` and
`external_over_bytes`. Inputs and outputs are those of onnxruntime-genai's graphs:
`input_ids` [batch, sequence], `attention_mask` [batch, past + sequence], `past_key_values.N.key`
and `.value` [batch, KV heads, past, head size]; `logits`
[batch, sequence, vocabulary], `present.N.*`. Padding belongs on the left; positions come from the
mask.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from runtimes.ort_graph import metadata_properties
from toolchain.export.onnx.graph_file import load_graph, save_graph, write_properties

_OPSET = 18
_BATCH, _SEQUENCE, _PAST = 2, 3, 5


def main() -> None:
    request = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    out, method = Path(request["out"]), str(request["method"])
    with tempfile.TemporaryDirectory(dir=out, prefix=".torch-") as folder:
        file = Path(folder) / "exported.onnx"
        _export(Path(request["checkpoint"]), file, method, request["trust_remote_code"])
        model = load_graph(file)
    write_properties(model, metadata_properties("left", shared_cache=False, last_only=False))
    save_graph(model, out, int(request["external_over_bytes"]))


def _export(checkpoint: Path, file: Path, method: str, trust_remote_code: bool) -> None:
    """Write the exporter's own file."""
    import torch
    from transformers import AutoModelForCausalLM

    network = AutoModelForCausalLM.from_pretrained(
        checkpoint,
        dtype=torch.float32,
        attn_implementation="sdpa" if method == "dynamo" else None,
        trust_remote_code=trust_remote_code,
        local_files_only=True,
    ).eval()
    network.config.use_cache = True
    with torch.no_grad():
        shapes = _cache_shapes(network)
        wrapper = _wrapper(network).eval()
        ids = torch.ones(_BATCH, _SEQUENCE, dtype=torch.int64)
        mask = torch.ones(_BATCH, _SEQUENCE + _PAST, dtype=torch.int64)
        past = [torch.zeros(_BATCH, heads, _PAST, size) for heads, size in shapes]
        _run_exporter(method, wrapper, (ids, mask, past), file)


def _cache_shapes(network: Any) -> list[tuple[int, int]]:
    """KV heads and head size of each cached tensor, keys and values in turn, from a short run."""
    import torch
    from transformers import DynamicCache

    cache = network(input_ids=torch.ones(1, 2, dtype=torch.int64), use_cache=True).past_key_values
    if not isinstance(cache, DynamicCache):
        raise TypeError(f"the model keeps its state in {type(cache).__name__}, not in a KV cache")
    tensors = [tensor for layer in cache.layers for tensor in (layer.keys, layer.values)]
    return [(int(tensor.shape[1]), int(tensor.shape[3])) for tensor in tensors]


def _wrapper(network: Any) -> Any:
    """The network as a function of flat tensors."""
    import torch
    from transformers import DynamicCache

    class Flat(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, input_ids: Any, attention_mask: Any, past: list[Any]) -> Any:
            cache = DynamicCache(list(zip(past[0::2], past[1::2], strict=True)))
            positions = (attention_mask.cumsum(-1) - 1).clamp(min=0)[:, -input_ids.shape[1] :]
            output = self.network(
                input_ids=input_ids,
                attention_mask=attention_mask,
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
            )
            layers = output.past_key_values.layers
            return (output.logits, *[t for layer in layers for t in (layer.keys, layer.values)])

    return Flat()


def _run_exporter(
    method: str, wrapper: Any, example: tuple[Any, Any, list[Any]], file: Path
) -> None:
    import torch

    names = [f"{i}.{part}" for i in range(len(example[2]) // 2) for part in ("key", "value")]
    past, present = ([f"{kind}.{n}" for n in names] for kind in ("past_key_values", "present"))
    inputs, outputs = ["input_ids", "attention_mask", *past], ["logits", *present]
    if method == "dynamo":
        free = torch.export.Dim.DYNAMIC
        shapes = ({0: free, 1: free}, {0: free, 1: free}, [{0: free, 2: free}] * len(past))
        program = torch.onnx.export(
            wrapper,
            example,
            dynamo=True,
            input_names=inputs,
            output_names=outputs,
            dynamic_shapes=shapes,
            opset_version=_OPSET,
            verbose=False,
        )
        program.save(file, external_data=True)
        return
    axes = {
        "input_ids": {0: "batch_size", 1: "sequence_length"},
        "attention_mask": {0: "batch_size", 1: "total_sequence_length"},
        "logits": {0: "batch_size", 1: "sequence_length"},
        **{name: {0: "batch_size", 2: "past_sequence_length"} for name in past},
        **{name: {0: "batch_size", 2: "total_sequence_length"} for name in present},
    }
    torch.onnx.export(
        wrapper,
        example,
        file,
        dynamo=False,
        input_names=inputs,
        output_names=outputs,
        dynamic_axes=axes,
        opset_version=_OPSET,
    )


if __name__ == "__main__":
    main()
