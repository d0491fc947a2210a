"""What config, tokenizer and tensors of a checkpoint must have in common: one function per rule.

Each takes a `CheckpointInfo` and yields `Fault`s. Nothing here reads a weight.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from toolchain.checkpoint import config_facts
from toolchain.checkpoint.architectures import (
    convertible_architectures,
    native_model_types,
    near_architectures,
)
from toolchain.checkpoint.info import CheckpointInfo, Fault, TensorHeader

_OTHER_REVISION = "fetch config.json and weights of one revision"
_GENERIC_TOKENIZERS = frozenset((
    "PreTrainedTokenizer", "GPT2Tokenizer", "LlamaTokenizer", "Qwen2Tokenizer",
    "BertTokenizer", "TokenizersBackend", "GemmaTokenizer", "CodeGenTokenizer",
))  # fmt: skip
_INTEGERS = frozenset({"U8", "I8", "U16", "I16", "U32", "I32", "BOOL"})
_QUANTIZERS = {
    "gptq": "GPTQ",
    "awq": "AWQ",
    "bitsandbytes": "bitsandbytes",
    "fp8": "FP8",
    "mxfp4": "MXFP4",
    "compressed-tensors": "compressed-tensors",
}

# Names of experts' weights and of what routes to them.
_EXPERT = re.compile(r"expert|moe|router")
_ENCODER_HEADS = ("ForSequenceClassification", "ForTokenClassification")


def architecture_is_known(info: CheckpointInfo) -> Iterator[Fault]:
    """The official converter must have this architecture in its table; encoders with a head become
    ONNX and need no converter."""
    name = info.architecture
    if name is None:
        yield Fault(
            "config.json names no architecture", 'add "architectures": ["…ForCausalLM"] to it'
        )
        return
    known = convertible_architectures()
    if name in known or name.endswith(_ENCODER_HEADS):
        return
    near = near_architectures(name, known)
    suggestion = f"did you mean {' or '.join(near)}? " if near else ""
    yield Fault(
        f"architecture {name} is not supported by llama.cpp's converter",
        f"{suggestion}{len(known)} architectures are known",
    )


def no_custom_code(info: CheckpointInfo) -> Iterator[Fault]:
    """Without `trust_remote_code`, transformers must have its own code for model and tokenizer."""
    mend = "if you trust its author: --trust-remote-code"
    auto_map = info.config.get("auto_map")
    native = str(info.config.get("model_type")) in native_model_types()
    if isinstance(auto_map, dict) and not native:
        yield Fault(f"the model needs its own code ({_first(auto_map)}), which is not run", mend)
    tokenizer_map = info.tokenizer_config.get("auto_map")
    if not isinstance(tokenizer_map, dict) or "AutoTokenizer" not in tokenizer_map:
        return
    kind = str(info.tokenizer_config.get("tokenizer_class", "")).removesuffix("Fast")
    if not native and kind not in _GENERIC_TOKENIZERS:
        yield Fault(f"the tokenizer needs its own code ({kind}), which is not run", mend)


def not_quantized(info: CheckpointInfo) -> Iterator[Fault]:
    """Only unquantized weights are taken: quantizing twice loses quality twice."""
    settings = info.config.get("quantization_config") or info.text_config.get("quantization_config")
    mend = "give the unquantized checkpoint it was made from, or dequantize it and save that"
    if settings:
        method = str(settings.get("quant_method", "?")) if isinstance(settings, dict) else "?"
        yield Fault(f"the weights are already quantized ({_QUANTIZERS.get(method, method)})", mend)
        return
    whole = [t for t in info.tensors if t.dtype in _INTEGERS]
    packed = [t for t in whole if len(t.shape) == 2 or t.name.endswith(".weight")]
    packed = [t for t in packed if not config_facts.is_buffer(t.name)]
    if packed:
        yield Fault(
            f"{packed[0].name} holds integers ({packed[0].dtype}): the weights are quantized", mend
        )


def has_tokenizer(info: CheckpointInfo) -> Iterator[Fault]:
    """A checkpoint without tokenizer cannot be exported."""
    if info.tokenizer_kind is None:
        yield Fault(
            "no tokenizer: neither tokenizer.json nor tokenizer.model nor vocabulary files",
            "copy the tokenizer's files from the base model",
        )


def tokenizer_fits_embedding(info: CheckpointInfo) -> Iterator[Fault]:
    """Every token id needs a row of the embedding; further rows (padding) are fine."""
    embedding = _embedding(info)
    rows = embedding.shape[0] if embedding is not None else info.vocab_size
    if info.tokenizer_ids is None or rows is None or info.tokenizer_ids <= rows:
        return
    yield Fault(
        f"the tokenizer gives ids up to {info.tokenizer_ids - 1}, the embedding has {rows} rows",
        "use the tokenizer the model was trained with, or resize the embeddings and train them",
    )


def stop_tokens_exist(info: CheckpointInfo) -> Iterator[Fault]:
    """End-of-sequence ids lie inside the vocabulary."""
    beyond = [i for i in info.eos_token_ids if info.vocab_size and not 0 <= i < info.vocab_size]
    if beyond:
        yield Fault(
            f"eos_token_id {beyond[0]} is outside the vocabulary of {info.vocab_size}",
            "correct eos_token_id in generation_config.json and config.json",
        )


def sizes_are_positive(info: CheckpointInfo) -> Iterator[Fault]:
    """No zero layers, no zero widths, no empty tensors."""
    config = info.text_config
    layers = config_facts.layer_count(config)
    if layers is not None and layers < 1:
        yield Fault(f"config.json says {layers} layers: there is no model", _OTHER_REVISION)
    width = config_facts.hidden_size(config)
    if width is not None and width < 1:
        yield Fault(f"config.json says hidden size {width}", _OTHER_REVISION)
    empty = [tensor.name for tensor in info.tensors if tensor.elements == 0]
    if empty:
        yield Fault(f"{empty[0]} is empty (shape with a 0)", "fetch the weights again")
    if info.weight_files and not info.tensors and not info.faults:
        yield Fault("the weight files hold no tensors", "fetch the weights again")


def embedding_matches_config(info: CheckpointInfo) -> Iterator[Fault]:
    """The token embedding is there and has the config's vocabulary and hidden size."""
    if not info.tensors:
        return
    embedding = _embedding(info)
    if embedding is None:
        yield Fault("the weights have no token embedding", _OTHER_REVISION)
        return
    if len(embedding.shape) != 2:
        yield Fault(f"{embedding.name} has shape {list(embedding.shape)}, not two dimensions")
        return
    rows, columns = embedding.shape
    said = config_facts.whole_number(info.text_config, ("vocab_size", "padded_vocab_size"))
    if said is not None and said != rows:
        yield Fault(
            f"config.json says vocab_size {said}, {embedding.name} has {rows} rows", _OTHER_REVISION
        )
    width = info.text_config.get("embedding_size", config_facts.hidden_size(info.text_config))
    narrow = info.text_config.get("word_embed_proj_dim", width)  # OPT projects its embedding
    if isinstance(width, int) and columns not in (width, narrow):
        yield Fault(
            f"config.json says hidden size {width}, {embedding.name} has width {columns}",
            _OTHER_REVISION,
        )


def output_head_exists(info: CheckpointInfo) -> Iterator[Fault]:
    """A causal model that does not tie its embeddings needs an output head."""
    causal = (info.architecture or "").endswith(("ForCausalLM", "LMHeadModel"))
    if not causal or info.tied_embeddings or not info.tensors:
        return
    if config_facts.output_head([tensor.name for tensor in info.tensors]) is None:
        yield Fault(
            "lm_head.weight is missing, and the config does not tie it to the embedding",
            'fetch all weights, or set "tie_word_embeddings": true where that is meant',
        )


def experts_exist(info: CheckpointInfo) -> Iterator[Fault]:
    """A config that promises experts needs tensors of experts."""
    promised = config_facts.whole_number(info.text_config, config_facts.EXPERTS) or 0
    if promised > 1 and info.tensors and not any(_EXPERT.search(t.name) for t in info.tensors):
        yield Fault(f"config.json says {promised} experts, the weights have none", _OTHER_REVISION)


def _embedding(info: CheckpointInfo) -> TensorHeader | None:
    name = config_facts.token_embedding([tensor.name for tensor in info.tensors])
    return next((tensor for tensor in info.tensors if tensor.name == name), None)


def _first(auto_map: dict[str, object]) -> str:
    value = auto_map.get("AutoModelForCausalLM", next(iter(auto_map.values()), "?"))
    return str(value)


STATIC_RULES = (
    architecture_is_known,
    not_quantized,
    sizes_are_positive,
    has_tokenizer,
    tokenizer_fits_embedding,
    stop_tokens_exist,
    embedding_matches_config,
    output_head_exists,
    experts_exist,
)
