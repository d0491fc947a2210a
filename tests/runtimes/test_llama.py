"""llama.cpp through its C interface, against torch and against itself, on real files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tiny_models import tiny_llama

from common.errors import UserError
from runtimes.llama import LlamaModel
from runtimes.protocol import Runtime
from toolchain.artifact import Artifact
from toolchain.export.gguf import convert

STORIES = Path(__file__).parents[3] / "shared" / "assets" / "models" / "stories260K-hf"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("tiny") / "checkpoint", hidden=128, ffn=96)


def converted(checkpoint: Path, out: Path) -> Path:
    source = Artifact(checkpoint, "hf", {}, "input")
    return convert.run(source, convert.Config(intermediate="f32", model_name="tiny"), out).only(
        ".gguf"
    )


@pytest.fixture(scope="module")
def file(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return converted(checkpoint, tmp_path_factory.mktemp("gguf"))


@pytest.fixture
def model(file: Path) -> Iterator[LlamaModel]:
    with LlamaModel(file, context_tokens=256, exact=True, parallel=3, threads=1) as opened:
        yield opened


def test_it_is_a_runtime(model: LlamaModel) -> None:
    assert isinstance(model, Runtime)


def test_logits_equal_torch(model: LlamaModel, checkpoint: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    tokens = model.tokenize("Turn on the lamp 把客厅的灯打开 and off again.")
    network = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()
    with torch.inference_mode():
        expected = network(torch.tensor([tokens])).logits[0].numpy()
    actual = model.logits(tokens)
    assert actual.shape == (len(tokens), model.vocab_size) == expected.shape
    assert np.abs(actual - expected).max() < 1e-4
    assert np.abs(expected).max() > 0.1


def test_each_call_starts_from_an_empty_cache(model: LlamaModel) -> None:
    first = model.logits([5, 6, 7])
    model.generate([9, 10, 11, 12], 8)
    assert np.array_equal(model.logits([5, 6, 7]), first)


def test_small_batches_and_threads_change_nothing_that_counts(file: Path) -> None:
    tokens = list(range(3, 103))
    with LlamaModel(file, context_tokens=128, exact=True, threads=1) as whole:
        expected = whole.logits(tokens)
    with LlamaModel(file, context_tokens=128, exact=True, threads=2, batch_tokens=7) as cut:
        assert np.abs(cut.logits(tokens) - expected).max() < 1e-4


def greedy(model: LlamaModel, prompt: list[int], count: int) -> list[int]:
    tokens = list(prompt)
    for _ in range(count):
        tokens.append(int(model.logits(tokens)[-1].argmax()))
    return tokens[len(prompt) :]


def test_generation_is_greedy(model: LlamaModel) -> None:
    prompt = model.tokenize("The quick brown fox")
    expected = greedy(model, prompt, 12)
    answer = model.generate(prompt, 12, stop_ids=())
    assert list(answer.token_ids) == expected
    assert answer.text == model.detokenize(expected)
    assert not answer.stopped
    assert answer.ttft_sec > 0
    assert answer.decode_sec > 0


def test_generation_stops_before_a_stop_token(model: LlamaModel) -> None:
    prompt = model.tokenize("The quick brown fox")
    expected = greedy(model, prompt, 12)
    stop = expected[5]
    answer = model.generate(prompt, 12, stop_ids=[stop])
    assert list(answer.token_ids) == expected[: expected.index(stop)]
    assert answer.stopped


def test_together_equals_one_by_one(model: LlamaModel) -> None:
    texts = ["A", "The lamp in the kitchen " * 20, "把灯", "x y", "def f(a):", "1 2 3", "naïve"]
    prompts = [model.tokenize(text) for text in texts]
    alone = [model.generate(prompt, 9) for prompt in prompts]
    stop = alone[1].token_ids[3]
    together = model.generate_many(prompts, 9, stop_ids=[stop])
    expected = [model.generate(prompt, 9, stop_ids=[stop]) for prompt in prompts]
    assert [a.token_ids for a in together] == [a.token_ids for a in expected]
    assert [a.stopped for a in together] == [a.stopped for a in expected]
    assert together[1].stopped


def test_prompts_longer_than_a_batch(file: Path) -> None:
    with LlamaModel(
        file, context_tokens=128, exact=True, parallel=4, batch_tokens=8, threads=1
    ) as model:
        prompts = [list(range(3, 3 + n)) for n in (1, 30, 8, 9, 64, 2)]
        alone = [model.generate(prompt, 6, stop_ids=()).token_ids for prompt in prompts]
        together = model.generate_many(prompts, 6, stop_ids=())
        assert [answer.token_ids for answer in together] == alone


def test_metadata_and_special_tokens(model: LlamaModel, checkpoint: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    assert model.metadata["general.architecture"] == "llama"
    assert model.chat_template == tokenizer.chat_template
    assert model.metadata["tokenizer.chat_template"] == tokenizer.chat_template
    assert model.eos_token_id == tokenizer.eos_token_id
    assert tokenizer.eos_token_id in model.eog_token_ids
    assert model.train_context_tokens == 512


@pytest.mark.parametrize("text", ["", "a", "  spaces  ", "把灯👩‍👩‍👧 é\n\n", "x" * 500])
def test_text_survives_tokens(model: LlamaModel, text: str) -> None:
    assert model.detokenize(model.tokenize(text)) == text


def test_special_tokens_are_parsed_and_shown_on_request(model: LlamaModel) -> None:
    tokens = model.tokenize("<|im_end|>", parse_special=True)
    assert tokens == [model.eos_token_id]
    assert len(model.tokenize("<|im_end|>", parse_special=False)) > 1
    assert model.detokenize(tokens, special=True) == "<|im_end|>"
    assert model.detokenize(tokens) == ""


def test_what_does_not_fit_is_refused(model: LlamaModel) -> None:
    with pytest.raises(UserError, match="300 tokens do not fit the context of 256"):
        model.logits([3] * 300)
    with pytest.raises(UserError, match="do not fit"):
        model.generate([3] * 250, 10)
    with pytest.raises(UserError, match="do not fit"):
        model.generate_many([[3], [3] * 250], 10)
    with pytest.raises(ValueError, match="needs a prompt"):
        model.generate([], 10)


def test_files_that_do_not_load(
    file: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(file.read_bytes()[:-100_000])
    garbage = tmp_path / "garbage.gguf"
    garbage.write_bytes(b"not a model" * 1000)
    for path, words in (
        (tmp_path / "absent.gguf", "is missing"),
        (broken, "it ends inside the tensor"),
        (garbage, "is no GGUF file"),
    ):
        with pytest.raises(UserError, match=words):
            LlamaModel(path, context_tokens=64)
    assert capfd.readouterr() == ("", "")


def test_llama_cpp_prints_nothing(file: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with LlamaModel(file, context_tokens=64, parallel=2) as model:
        model.generate_many([[3], [4]], 4)
    assert capfd.readouterr() == ("", "")


def test_a_closed_model_says_so(file: Path) -> None:
    model = LlamaModel(file, context_tokens=64)
    model.close()
    model.close()
    with pytest.raises(ValueError, match="closed"):
        model.generate([3], 1)


def test_kv_cache_types(file: Path) -> None:
    tokens = list(range(3, 60))
    results = {}
    for kind in ("f16", "q8_0"):
        with LlamaModel(file, context_tokens=64, kv_cache_type=kind, threads=1) as model:
            results[kind] = model.logits(tokens)
    with LlamaModel(file, context_tokens=64, exact=True, threads=1) as model:
        exact = model.logits(tokens)
    f16, q8_0 = (np.abs(results[kind] - exact).max() for kind in ("f16", "q8_0"))
    assert 0 < f16 < q8_0 < 0.5
    with pytest.raises(UserError, match="unknown KV-cache type 'q9'"):
        LlamaModel(file, context_tokens=64, kv_cache_type="q9")


@pytest.mark.real_model
@pytest.mark.skipif(not STORIES.is_dir(), reason="../shared/assets is not there")
def test_a_trained_model_tells_its_story(tmp_path: Path) -> None:
    with LlamaModel(converted(STORIES, tmp_path), context_tokens=128, exact=True) as model:
        prompt = model.tokenize("Once upon a time", add_special=True)
        assert prompt[0] == model.bos_token_id
        answer = model.generate(prompt, 40)
    assert answer.text.startswith(", there was a little girl named Lily.")
