"""Export one encoder, in a process of its own: torch's memory goes when it ends.

    python -m toolchain.export.onnx.encoder_driver request.json

The request names checkpoint, result folder, task and pooling; the answer is written beside it as
`answer.json`: what was exported and its proof, or a fault that the user can mend.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import warnings
from pathlib import Path
from typing import Any

from common.errors import Told, UserError
from common.files import write_json
from common.scratch import ScratchFolder
from runtimes.ort_encoder import FACTS, MODEL, TAG, TOKENIZER, EncoderFacts
from runtimes.threads import idle_cores

ANSWER = "answer.json"
OPSET = 17
_EXAMPLE_TOKENS = (9, 16)


def export(request: dict[str, Any]) -> dict[str, Any]:
    """Write model.onnx, tokenizer.json and encoder.json; nodes, exporter and gates."""
    import torch

    from toolchain.export.onnx.encoder_facts import AUTO, checkpoint_facts
    from toolchain.export.onnx.encoder_graph import save, tidy, weight_matmuls
    from toolchain.export.onnx.encoder_network import exported_network, input_names, load_network
    from toolchain.export.onnx.encoder_parity import parity_gates

    torch.set_num_threads(min(torch.get_num_threads(), idle_cores()))
    warnings.filterwarnings("ignore")
    source, out_dir = Path(request["source"]), Path(request["out_dir"])
    trust = bool(request["trust_remote_code"])
    facts = dataclasses.replace(
        checkpoint_facts(source, task=request["task"], pooling=request["pooling"] or AUTO),
        normalize=request["normalize"],
        max_tokens=request["max_tokens"],
    )
    tokenizer = _tokenizer(source, trust)
    network = load_network(source, facts, trust_remote_code=trust)
    names = input_names(network)
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else facts.pad_token_id
    facts = dataclasses.replace(facts, inputs=names, pad_token_id=pad)
    network = exported_network(network, facts)
    with torch.no_grad():
        model, exporter = _graph(network, facts)
    model = tidy(model)
    save(model, out_dir)
    nodes = weight_matmuls(model)
    del model
    facts = dataclasses.replace(facts, width=_width(network, facts))
    write_json(out_dir / FACTS, dataclasses.asdict(facts))
    _save_tokenizer(tokenizer, out_dir)
    gates = parity_gates(out_dir, network, tokenizer)
    return {
        "exporter": exporter,
        "weight_matmuls": len(nodes),
        "gates": [gate.as_json() for gate in gates],
    }


def _graph(network: Any, facts: EncoderFacts) -> tuple[Any, str]:
    """The ONNX model and which exporter made it.

    The TorchScript exporter takes a third of the time and its graph runs as fast; what it cannot
    trace goes to torch.export.
    """
    import onnx

    with ScratchFolder("onnx") as folder:
        file = Path(folder, MODEL)
        faults = []
        for name, attempt in (("torchscript", _torchscript), ("dynamo", _dynamo)):
            try:
                attempt(network, facts, file)
                return onnx.load(str(file)), name
            except Exception as error:  # either exporter raises whatever its graph passes raise
                first = (str(error).strip().splitlines() or [type(error).__name__])[0]
                faults.append(f"{name}: {first[:300]}")
    raise UserError(
        f"neither exporter of torch can export {type(network.model).__name__}",
        "encoders like BERT, RoBERTa, DistilBERT and MiniLM are known to work; "
        "please report this model's config.json",
        details=faults,
    )


def _example(network: Any, facts: EncoderFacts) -> tuple[Any, ...]:
    """Two rows of different length, so that the trace holds the padding mask."""
    import torch

    ids = torch.full((2, min(_EXAMPLE_TOKENS[1], facts.max_tokens)), (facts.pad_token_id + 1) % 2)
    mask = torch.ones_like(ids)
    short = min(_EXAMPLE_TOKENS[0], ids.shape[1])
    ids[1, short:], mask[1, short:] = facts.pad_token_id, 0
    columns = {"input_ids": ids, "attention_mask": mask, "token_type_ids": torch.zeros_like(ids)}
    return tuple(columns[name] for name in facts.inputs)


def _torchscript(network: Any, facts: EncoderFacts, file: Path) -> None:
    import torch

    axes: dict[str, dict[int, str]] = {name: {0: "batch", 1: "tokens"} for name in facts.inputs}
    axes[_output_name(facts)] = {0: "batch", **({1: "tokens"} if facts.task == TAG else {})}
    torch.onnx.export(
        network,
        _example(network, facts),
        str(file),
        input_names=list(facts.inputs),
        output_names=[_output_name(facts)],
        dynamic_axes=axes,
        opset_version=OPSET,
        dynamo=False,
    )


def _dynamo(network: Any, facts: EncoderFacts, file: Path) -> None:
    import torch

    dims = {0: torch.export.Dim("batch"), 1: torch.export.Dim("tokens")}
    torch.onnx.export(
        network,
        _example(network, facts),
        str(file),
        input_names=list(facts.inputs),
        output_names=[_output_name(facts)],
        dynamic_shapes=(tuple(dims for _ in facts.inputs),),
        dynamo=True,
        external_data=True,
        verbose=False,
    )


def _output_name(facts: EncoderFacts) -> str:
    return "logits" if facts.labels else "embeddings"


def _width(network: Any, facts: EncoderFacts) -> int:
    import torch

    with torch.inference_mode():
        return int(network(*_example(network, facts)).shape[-1])


def _tokenizer(source: Path, trust_remote_code: bool) -> Any:
    from toolchain.hf import load_tokenizer

    tokenizer = load_tokenizer(source, trust_remote_code=trust_remote_code)
    if getattr(tokenizer, "backend_tokenizer", None) is None:
        raise UserError(
            f"the tokenizer of {source.name} has no fast form, which the ONNX bundle needs",
            "save the checkpoint with a tokenizer.json",
        )
    return tokenizer


def _save_tokenizer(tokenizer: Any, out_dir: Path) -> None:
    """tokenizer.json as transformers uses it, without the padding and cutting of its training."""
    from tokenizers import Tokenizer

    plain = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    plain.no_padding()
    plain.no_truncation()
    plain.save(str(out_dir / TOKENIZER))


def main(request_file: Path) -> None:
    """Run the request; the answer is written whatever happens short of a crash."""
    request = json.loads(request_file.read_text("utf-8"))
    try:
        answer = export(request)
    except Told as error:
        answer = error.facts()
    write_json(request_file.with_name(ANSWER), answer)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
