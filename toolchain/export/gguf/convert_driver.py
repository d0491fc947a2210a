"""Runs llama.cpp's official converter, in a process of its own, unchanged but for the tokenizer.

    python -P convert_driver.py CONVERTER_FOLDER REQUEST.json -- CONVERTER_ARGUMENTS...

The request file holds `pre` (the pre-tokenizer's name to use when the converter does not know the
tokenizer, or null) and `merge_scores` (whether to give SentencePiece-type pieces without scores
those that the order of merges implies), `as_llama` (whether to write it as a Llama, with
`layer_widths` where its layers differ), `head_dim` (as the config names it, or null),
`context_tokens` (how long a text may be where that is less than the config says, or null) and
`trust_remote_code` (the converter itself trusts the code of some checkpoints unasked). The driver
adds what it did: `pre_name`, `pre_how` (`table`: known to the converter by hash; `structure`: the
requested name), `merge_scores_used`.

Nothing of this project is imported here: the converter brings its own gguf package, which differs
from the published one of the same version.
"""

from __future__ import annotations

import importlib
import json
import runpy
import sys
from pathlib import Path
from typing import Any


def patch_unknown_tokenizer(request: dict[str, Any]) -> None:
    """Use the requested pre-tokenizer name where the converter's table has no entry."""
    base = importlib.import_module("conversion.base")
    original = base.TextModel.get_vocab_base_pre

    def get_vocab_base_pre(self: Any, tokenizer: Any) -> str:
        try:
            name, how = str(original(self, tokenizer)), "table"
        except NotImplementedError:
            if not request.get("pre"):
                raise
            name, how = str(request["pre"]), "structure"
        request["pre_name"], request["pre_how"] = name, how
        return name

    base.TextModel.get_vocab_base_pre = get_vocab_base_pre


def patch_missing_scores(request: dict[str, Any]) -> None:
    """Give pieces the scores that the merges' order implies, where a file has merges alone.

    SentencePiece BPE merges the pair whose result scores highest; the converter gives all pieces
    -1000, so the leftmost pair would win. A piece's rank is that of its first merge.
    """
    vocab = importlib.import_module("gguf.vocab").LlamaHfVocab
    placeholder = vocab.get_token_score

    def get_token_score(self: Any, token_id: int) -> float:
        if not hasattr(self, "_edgeforge_scores"):
            self._edgeforge_scores = merge_scores(
                json.loads(self.fname_tokenizer.read_text(encoding="utf-8"))["model"]
            )
            request["merge_scores_used"] = True
        return float(self._edgeforge_scores.get(token_id, placeholder(self, token_id)))

    vocab.get_token_score = get_token_score


def write_as_llama(widths: dict[str, list[int]]) -> None:
    """Write the checkpoint as a Llama; with widths per layer as a `deci`, which is a Llama that has
    them. Both want queries and keys in the order that the converter's Llama class makes."""
    conversion: Any = importlib.import_module("conversion")
    gguf = importlib.import_module("gguf")
    base: Any = importlib.import_module("conversion.llama").LlamaModel

    class AsLlama(base):  # type: ignore[misc]
        model_arch = gguf.MODEL_ARCH.DECI if widths else gguf.MODEL_ARCH.LLAMA

        hparams: dict[str, Any]

        def set_gguf_parameters(self) -> None:
            own = self.hparams
            self.hparams = {**own, **widths}  # the writer takes lists
            super().set_gguf_parameters()
            self.hparams = own

        def modify_tensors(self, data: Any, name: str, bid: int | None) -> Any:
            own = self.hparams
            if bid is not None:
                self.hparams = {**own, **{key: value[bid] for key, value in widths.items()}}
            yield from super().modify_tensors(data, name, bid)
            self.hparams = own

    conversion.get_model_class = lambda *_args, **_keywords: AsLlama


def patch_dropped_head_size(head_dim: int) -> None:
    """Granite's class drops the size of a head that the config names; what is left would be told
    from the number of heads, wrongly where some were cut."""
    base: Any = importlib.import_module("conversion.llama").LlamaModel
    original = base.set_gguf_parameters

    def set_gguf_parameters(self: Any) -> None:
        self.hparams.setdefault("head_dim", head_dim)
        original(self)

    base.set_gguf_parameters = set_gguf_parameters


def patch_saved_anew() -> None:
    """What transformers 5 leaves out when it saves a model that was trained: tokenizer.model, the
    list of added tokens in tokenizer_config.json, older names of settings. All of it stands
    elsewhere in the checkpoint."""
    base: Any = importlib.import_module("conversion.base").TextModel
    pieces_of, by_pieces, by_bytes = (
        base._create_vocab_sentencepiece,
        base._set_vocab_sentencepiece,
        base._set_vocab_gpt2,
    )

    def create_vocab(self: Any) -> Any:
        tokens, scores, kinds = pieces_of(self)
        mark_added(self, tokens, scores, kinds)
        return tokens, scores, kinds

    def set_by_pieces(self: Any, *more: Any, **settings: Any) -> Any:
        if not has_pieces_alone(self.dir_model):
            return by_pieces(self, *more, **settings)
        return set_alone(self)

    def set_by_bytes(self: Any, *more: Any, **settings: Any) -> Any:
        if not has_pieces_alone(self.dir_model):
            return by_bytes(self, *more, **settings)
        return set_alone(self)

    def set_alone(self: Any) -> None:
        self._set_vocab_llama_hf()
        if not begins_with_space(self.dir_model):
            self.gguf_writer.add_add_space_prefix(False)

    base._create_vocab_sentencepiece = create_vocab
    base._set_vocab_sentencepiece, base._set_vocab_gpt2 = set_by_pieces, set_by_bytes
    phi: Any = importlib.import_module("conversion.phi").Phi3MiniModel
    with_model = phi.set_vocab

    def set_vocab(self: Any) -> None:
        there = (self.dir_model / "tokenizer.model").is_file()
        (with_model if there else type(self)._set_vocab_gpt2)(self)

    phi.set_vocab = set_vocab
    patch_config_names()


def patch_config_names() -> None:
    """Settings under the names that the converter looks for."""
    models: Any = importlib.import_module("conversion.base").ModelBase
    load = models.load_hparams

    def load_hparams(*given: Any, **named: Any) -> Any:
        found = load(*given, **named)
        for name, value in older_names(found).items():
            if found.get(name) is None:
                found[name] = value
        if found.get("model_type") == "falcon" and one_head_of_keys(found):
            found["num_kv_heads"] = 1
        return found

    models.load_hparams = staticmethod(load_hparams)


def older_names(config: dict[str, Any]) -> dict[str, Any]:
    """What transformers 5 no longer writes, of what it does write."""
    kind = config.get("model_type")
    if kind == "modernbert" and "norm_eps" in config:
        return {"layer_norm_eps": config["norm_eps"]}
    if kind == "gpt2" and "n_positions" in config:
        return {"n_ctx": config["n_positions"]}
    if kind == "gpt_neox":
        rope = config.get("rope_parameters") or {}
        names = {"rotary_pct": "partial_rotary_factor", "rotary_emb_base": "rope_theta"}
        return {old: rope[new] for old, new in names.items() if new in rope}
    return {}


def one_head_of_keys(config: dict[str, Any]) -> bool:
    """Whether a Falcon of the first kind shares one head of keys, whatever its list of sizes
    says."""
    return bool(config.get("multi_query")) and not config.get("new_decoder_architecture")


def mark_added(model: Any, tokens: list[bytes], scores: list[float], kinds: list[int]) -> None:
    """Added tokens as tokenizer.json has them, where pieces alone would be plain text."""
    path = model.dir_model / "tokenizer.json"
    added = json.loads(path.read_text("utf-8")).get("added_tokens", []) if path.is_file() else []
    types = importlib.import_module("conversion.base").SentencePieceTokenTypes
    for token in added:
        number, text = int(token["id"]), str(token["content"])
        if number >= len(tokens) or kinds[number] not in (types.NORMAL, types.UNUSED):
            continue
        special = token.get("special") or model.does_token_look_special(text)
        kinds[number] = types.CONTROL if special else types.USER_DEFINED
        tokens[number], scores[number] = text.encode("utf-8"), -1000.0


def has_pieces_alone(folder: Path) -> bool:
    """Whether the tokenizer is SentencePiece BPE and only tokenizer.json is left of it."""
    path = folder / "tokenizer.json"
    if (folder / "tokenizer.model").is_file() or not path.is_file():
        return False
    model = json.loads(path.read_text(encoding="utf-8")).get("model") or {}
    return bool(model.get("byte_fallback")) and bool(model.get("merges"))


def begins_with_space(folder: Path) -> bool:
    """Whether this tokenizer.json puts a space before every text."""
    found = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    normalizer, splitter = found.get("normalizer") or {}, found.get("pre_tokenizer") or {}
    steps = [normalizer, *normalizer.get("normalizers", [])]
    scheme = splitter.get("prepend_scheme", "never")
    return scheme != "never" or any(step.get("type") == "Prepend" for step in steps)


def cap_context(tokens: int) -> None:
    """The file's context is at most so long: beyond it llama.cpp would compute another thing."""
    writer: Any = importlib.import_module("gguf").GGUFWriter
    original = writer.add_context_length

    def add_context_length(self: Any, length: int) -> None:
        original(self, min(length, tokens))

    writer.add_context_length = add_context_length


def run_no_code_of_the_checkpoint() -> None:
    """The converter asks for `trust_remote_code=True` where the checkpoint's own files lead it to,
    for example by the name of their tokenizer's class. Only the user can ask for that."""
    transformers: Any = importlib.import_module("transformers")
    for name in ("AutoConfig", "AutoTokenizer", "AutoProcessor", "AutoModel"):
        kind = getattr(transformers, name)
        kind.from_pretrained = classmethod(_without_trust(kind.from_pretrained.__func__))


def _without_trust(original: Any) -> Any:
    def from_pretrained(kind: Any, *given: Any, **named: Any) -> Any:
        return original(kind, *given, **{**named, "trust_remote_code": False})

    return from_pretrained


def merge_scores(model: dict[str, Any]) -> dict[int, float]:
    """Token id to score, minus the rank of the first merge that makes the token."""
    scores: dict[int, float] = {}
    for rank, merge in enumerate(model["merges"]):
        left, right = merge.split(" ", 1) if isinstance(merge, str) else merge
        token_id = model["vocab"].get(left + right)
        if token_id is not None:
            scores.setdefault(token_id, -float(rank))
    # Characters are never the result of a merge; they score below every merged piece.
    floor = -float(len(model["merges"]))
    for piece, token_id in model["vocab"].items():
        if len(piece) == 1:
            scores.setdefault(token_id, floor)
    return scores


def main() -> None:
    converter, request_file = Path(sys.argv[1]), Path(sys.argv[2])
    arguments = sys.argv[sys.argv.index("--") + 1 :]
    request = json.loads(request_file.read_text(encoding="utf-8"))
    sys.path[:0] = [str(converter), str(converter / "gguf-py")]
    if not request.get("trust_remote_code"):
        run_no_code_of_the_checkpoint()
    patch_unknown_tokenizer(request)
    patch_saved_anew()
    if request.get("merge_scores"):
        patch_missing_scores(request)
    if request.get("as_llama"):
        write_as_llama(request.get("layer_widths") or {})
    if request.get("head_dim"):
        patch_dropped_head_size(request["head_dim"])
    if request.get("context_tokens"):
        cap_context(request["context_tokens"])
    script = converter / "convert_hf_to_gguf.py"
    sys.argv = [str(script), *arguments]
    try:
        runpy.run_path(str(script), run_name="__main__")
    finally:
        request_file.write_text(json.dumps(request), encoding="utf-8")


if __name__ == "__main__":
    main()
