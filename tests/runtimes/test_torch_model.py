"""The torch runtime and both streams, against transformers' own generation and each other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_models import tiny_llama

from common.errors import UserError
from runtimes.llama import LlamaModel
from runtimes.llama_stream import LlamaStream
from runtimes.protocol import Runtime
from runtimes.streaming import text_pieces
from runtimes.torch_model import TorchModel
from toolchain.artifact import Artifact
from toolchain.export.gguf import convert

TEXTS = ("Turn on the lamp 把客厅的灯打开", "x", "The quick brown fox jumps over it. " * 3)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("torch") / "checkpoint", hidden=128, ffn=96)


@pytest.fixture(scope="module")
def loaded(checkpoint: Path) -> tuple[Any, Any]:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    network = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()
    return network, AutoTokenizer.from_pretrained(checkpoint)


@pytest.fixture
def model(loaded: tuple[Any, Any]) -> TorchModel:
    return TorchModel(*loaded, eog_token_ids=[2], context_tokens=256, parallel=3)


@pytest.fixture(scope="module")
def llama(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LlamaModel]:
    out = tmp_path_factory.mktemp("gguf")
    config = convert.Config(intermediate="f32", model_name="tiny")
    file = convert.run(Artifact(checkpoint, "hf", {}, "input"), config, out).only(".gguf")
    with LlamaModel(file, context_tokens=256, exact=True, threads=1) as opened:
        yield opened


def expected_ids(loaded: tuple[Any, Any], prompt: list[int], new_tokens: int) -> tuple[int, ...]:
    """The greedy choice, the whole text computed anew for each token."""
    import torch

    network, ids = loaded[0], list(prompt)
    for _ in range(new_tokens):
        with torch.inference_mode():
            ids.append(int(network(torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
    return tuple(ids[len(prompt) :])


def test_it_is_a_runtime(model: TorchModel) -> None:
    assert isinstance(model, Runtime)


def test_logits_equal_llama_cpp(model: TorchModel, llama: LlamaModel) -> None:
    tokens = model.tokenize(TEXTS[0])
    assert tokens == llama.tokenize(TEXTS[0])
    assert model.detokenize(tokens) == TEXTS[0]
    ours = model.logits(tokens)
    assert ours.shape == (len(tokens), model.vocab_size) == (len(tokens), llama.vocab_size)
    assert np.abs(ours - llama.logits(tokens)).max() < 1e-4


def test_special_tokens_are_read_and_hidden_on_demand(model: TorchModel) -> None:
    ids = model.tokenize("<|im_end|>a")
    assert ids[0] in model.eog_token_ids
    assert len(model.tokenize("<|im_end|>a", parse_special=False)) > len(ids)
    assert model.detokenize(ids) == "a"
    assert model.detokenize(ids, special=True) == "<|im_end|>a"


def test_padded_answers_equal_those_without_a_cache(
    model: TorchModel, loaded: tuple[Any, Any]
) -> None:
    prompts = [model.tokenize(text) for text in TEXTS]
    assert len({len(prompt) for prompt in prompts}) == 3
    answers = model.generate_many(prompts, 12, stop_ids=[])
    for prompt, answer in zip(prompts, answers, strict=True):
        assert answer.token_ids == expected_ids(loaded, prompt, 12)
        assert not answer.stopped
        assert answer.ttft_sec > 0 and answer.decode_sec > 0


def test_an_answer_ends_at_a_stop_token(model: TorchModel) -> None:
    prompt = model.tokenize(TEXTS[0])
    free = model.generate(prompt, 12, stop_ids=[]).token_ids
    stop = free[5]
    answer = model.generate(prompt, 12, stop_ids=[stop])
    assert answer.stopped
    assert answer.token_ids == free[: free.index(stop)]
    assert tuple(model.stream(prompt, 12, stop_ids=[stop])) == answer.token_ids


def test_both_streams_give_the_greedy_answer(model: TorchModel, llama: LlamaModel) -> None:
    prompt = model.tokenize(TEXTS[0])
    expected = model.generate(prompt, 16, stop_ids=[])
    assert tuple(model.stream(prompt, 16, stop_ids=[])) == expected.token_ids
    stream = LlamaStream(llama)
    assert tuple(stream(prompt, 16, stop_ids=[])) == expected.token_ids
    assert "".join(text_pieces(expected.token_ids, model.detokenize)) == expected.text


def test_a_second_turn_reuses_the_cache_and_answers_the_same(llama: LlamaModel) -> None:
    stream = LlamaStream(llama)
    first = llama.tokenize(TEXTS[2])
    answer = list(stream(first, 8, stop_ids=[]))
    turns = {
        "longer": [*first, *answer, *llama.tokenize(" and then?")],
        "other": llama.tokenize("Quantization keeps it."),
        "shorter": first[:10],
        "same": first[:10],
    }
    for prompt in turns.values():
        got = tuple(stream(prompt, 8, stop_ids=[]))
        assert got == tuple(LlamaStream(llama)(prompt, 8, stop_ids=[]))  # clears: another's cache
    assert tuple(llama.generate(first, 8, stop_ids=[]).token_ids) == tuple(answer)
    assert list(stream(first, 8, stop_ids=[])) == answer  # after another use cleared the cache


def test_only_what_is_new_is_decoded(llama: LlamaModel, monkeypatch: pytest.MonkeyPatch) -> None:
    stream, prompt = LlamaStream(llama), llama.tokenize(TEXTS[2])
    answer = list(stream(prompt, 4, stop_ids=[]))
    decoded: list[int] = []
    decode = stream._decode

    def counting(token_ids: Sequence[int]) -> None:
        decoded.append(len(token_ids))
        decode(token_ids)

    monkeypatch.setattr(stream, "_decode", counting)
    question = llama.tokenize(" again")
    list(stream([*prompt, *answer, *question], 2, stop_ids=[]))
    # the answer's last token was never computed; then one step for the second new token
    assert decoded == [len(question) + 1, 1]


def test_sampling_follows_the_seed(model: TorchModel) -> None:
    prompt = model.tokenize(TEXTS[0])

    def drawn(seed: int) -> list[int]:
        return list(model.stream(prompt, 16, stop_ids=[], temperature=1.0, seed=seed))

    assert drawn(1) == drawn(1)
    assert len({tuple(drawn(seed)) for seed in range(4)}) > 1


def test_characters_wait_for_all_their_bytes(model: TorchModel) -> None:
    text = "ok 打开 👍🏽 灯"
    ids = model.tokenize(text)
    pieces = list(text_pieces(ids, model.detokenize))
    assert "".join(pieces) == text
    assert not any("\ufffd" in piece for piece in pieces)
    assert len(pieces) > 3


def test_what_does_not_fit_is_refused(model: TorchModel, llama: LlamaModel) -> None:
    for stream in (model.stream, LlamaStream(llama)):
        with pytest.raises(UserError, match="do not fit the context of 256"):
            next(stream([5] * 250, 7))
    with pytest.raises(UserError, match="do not fit"):
        model.generate_many([[5], [5] * 250], 7)


def test_close_frees_once(loaded: tuple[Any, Any]) -> None:
    closed: list[int] = []
    model = TorchModel(
        *loaded, eog_token_ids=[2], context_tokens=64, on_close=lambda: closed.append(1)
    )
    model.close()
    model.close()
    assert closed == [1]
    with pytest.raises(ValueError, match="closed"):
        model.logits([1, 2])
