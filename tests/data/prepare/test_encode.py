"""Labels on answers only, and packed rows that compute what single rows compute."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tiny_models import tiny_llama

from common.errors import UserError
from toolchain.data.prepare.encode import (
    IGNORED,
    Encoded,
    TooLong,
    attention_mask,
    encode_chat,
    encode_text,
    pack,
)
from toolchain.hf import load_tokenizer, token_ids

ASSETS = Path(__file__).resolve().parents[4] / "shared" / "assets"
ASK = {"role": "user", "content": "Turn on the lamp in the kitchen."}
SAY = {"role": "assistant", "content": "Done: 把客厅的灯打开"}
TALK = [{"role": "system", "content": "Be brief."}, ASK, SAY, ASK, {**SAY, "content": "Again."}]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("model") / "tiny", hidden=64, ffn=128)


@pytest.fixture(scope="module")
def tokenizer(checkpoint: Path) -> Any:
    return load_tokenizer(checkpoint)


def answers(tokenizer: Any, encoded: Encoded) -> list[str]:
    """The runs of tokens that have loss, as text."""
    runs: list[list[int]] = [[]]
    for label in encoded.labels:
        if label != IGNORED:
            runs[-1].append(label)
        elif runs[-1]:
            runs.append([])
    return [tokenizer.decode(run) for run in runs if run]


def test_loss_is_on_every_answer_and_its_end_only(tokenizer: Any) -> None:
    encoded = encode_chat(tokenizer, TALK, 512)
    assert answers(tokenizer, encoded) == ["Done: 把客厅的灯打开<|im_end|>", "Again.<|im_end|>"]
    whole = tokenizer.apply_chat_template(TALK, tokenize=True, return_dict=False)
    assert encoded.input_ids == whole
    assert len(encoded.labels) == len(whole)
    assert sum(encoded.answer_tokens) == sum(label != IGNORED for label in encoded.labels)
    assert not encoded.truncated


def test_loss_on_everything_when_asked(tokenizer: Any) -> None:
    encoded = encode_chat(tokenizer, TALK, 512, answers_only=False)
    assert encoded.labels == encoded.input_ids


def test_a_long_conversation_is_cut_at_its_end(tokenizer: Any) -> None:
    whole = encode_chat(tokenizer, TALK, 512)
    cut = encode_chat(tokenizer, TALK, len(whole.input_ids) - 3)
    assert cut.truncated
    assert cut.input_ids == whole.input_ids[:-3]
    assert cut.labels == whole.labels[:-3]


def test_a_prompt_that_leaves_no_room_is_refused(tokenizer: Any) -> None:
    prompt = tokenizer.apply_chat_template([ASK], add_generation_prompt=True, return_dict=False)
    with pytest.raises(TooLong, match=f"the prompt has {len(prompt)} tokens"):
        encode_chat(tokenizer, [ASK, SAY], len(prompt))
    assert len(encode_chat(tokenizer, [ASK, SAY], len(prompt) + 1).input_ids) == len(prompt) + 1


def test_an_answer_whose_start_merges_with_the_prompt_keeps_the_ids_of_the_whole(
    tokenizer: Any,
) -> None:
    messages = [ASK, {"role": "assistant", "content": "\n\nline"}]
    encoded = encode_chat(tokenizer, messages, 512)
    text = tokenizer.apply_chat_template(messages, tokenize=False)
    assert encoded.input_ids == token_ids(tokenizer, text, add_special=False)
    assert answers(tokenizer, encoded)[0].endswith("line<|im_end|>")


def test_a_template_that_rewrites_earlier_turns_is_refused(checkpoint: Path) -> None:
    own = load_tokenizer(checkpoint)
    own.chat_template = (
        "{{ messages | length }}"
        "{% for m in messages %}<|im_start|>{{ m['content'] }}<|im_end|>{% endfor %}"
    )
    with pytest.raises(UserError, match="writes a prompt differently"):
        encode_chat(own, [ASK, SAY], 512)


def test_a_tokenizer_without_template_is_refused(tmp_path: Path) -> None:
    plain = load_tokenizer(tiny_llama(tmp_path / "base", hidden=64, ffn=64, chat_template=False))
    with pytest.raises(UserError, match="no chat template"):
        encode_chat(plain, [ASK, SAY], 512)


def test_text_has_loss_on_every_token(tokenizer: Any) -> None:
    encoded = encode_text(tokenizer, "The quick brown fox", 4)
    assert encoded.truncated
    assert encoded.labels == encoded.input_ids == tokenizer("The quick brown fox")["input_ids"][:4]


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_packed_examples_have_the_logits_and_the_loss_of_single_ones(
    checkpoint: Path, tokenizer: Any, attention: str
) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(checkpoint, attn_implementation=attention).eval()
    talks = [[ASK, {**SAY, "content": "yes " * n}] for n in (3, 9, 1)] + [TALK]
    examples = [encode_chat(tokenizer, talk, 512) for talk in talks]
    rows = pack(examples, sum(len(e.input_ids) for e in examples))
    assert len(rows) == 1
    (row,) = rows
    ids, positions = torch.tensor([row.input_ids]), torch.tensor([row.position_ids])
    with torch.inference_mode():
        packed = model(
            input_ids=ids, position_ids=positions, attention_mask=attention_mask(row)
        ).logits[0]
        unmasked = model(input_ids=ids, position_ids=positions.flatten().argsort()[None]).logits[0]
        losses = []
        for number, example in enumerate(examples):
            start, end = row.cu_seqlens[number : number + 2]
            assert row.input_ids[start:end] == example.input_ids
            alone = model(input_ids=torch.tensor([example.input_ids])).logits[0]
            torch.testing.assert_close(packed[start:end], alone, atol=1e-5, rtol=1e-4)
            losses.append(loss_sum(alone, example.labels))
        # Without the mask the second example sees the first: the check above can fail.
        first = row.cu_seqlens[1]
        assert (unmasked[first:] - packed[first:]).abs().max() > 1e-3
    torch.testing.assert_close(loss_sum(packed, row.labels), torch.stack(losses).sum())


def loss_sum(logits: Any, labels: list[int]) -> Any:
    import torch

    return torch.nn.functional.cross_entropy(
        logits[:-1], torch.tensor(labels[1:]), ignore_index=IGNORED, reduction="sum"
    )


def test_packing_keeps_every_example_once_within_the_row() -> None:
    lengths = [5, 9, 2, 7, 3, 10, 1, 0]
    examples = [Encoded([i] * n, [i] * n) for i, n in enumerate(lengths)]
    rows = pack(examples, 10)
    assert max(len(row.input_ids) for row in rows) <= 10
    assert len(rows) == 4  # 37 tokens in rows of 10: no fewer is possible
    found = []
    for row in rows:
        borders = zip(row.cu_seqlens, row.cu_seqlens[1:], strict=False)
        for number, (start, end) in enumerate(borders):
            assert row.position_ids[start:end] == list(range(end - start))
            assert set(row.sequence_ids[start:end]) == {number}
            assert row.labels[start] == IGNORED  # not predicted from a stranger's last token
            assert row.labels[start + 1 : end] == row.input_ids[start + 1 : end]
            found.append((row.input_ids[start], end - start))
    assert sorted(found) == [(i, n) for i, n in enumerate(lengths) if n]
    assert pack(examples, 10) == rows


def test_an_example_longer_than_a_row_is_refused() -> None:
    with pytest.raises(UserError, match="example 1 has 4 tokens, a packed row holds 3"):
        pack([Encoded([1], [1]), Encoded([1] * 4, [1] * 4)], 3)


def test_a_template_with_a_final_line_break_is_understood(checkpoint: Path) -> None:
    own = load_tokenizer(checkpoint)
    own.chat_template += "\n{{ '\n' }}"
    assert answers(own, encode_chat(own, [ASK, SAY], 512)) == [SAY["content"] + "<|im_end|>"]


@pytest.mark.real_model
@pytest.mark.skipif(not ASSETS.is_dir(), reason="../shared/assets is absent")
@pytest.mark.parametrize(
    "name",
    ["Qwen-Qwen2.5-7B-Instruct", "Qwen-Qwen3-0.6B", "HuggingFaceTB-SmolLM3-3B", "llama-3-instruct",
     "phi-3", "zephyr", "mistral-instruct", "vicuna", "alpaca", "llama-2-chat", "gemma-it"],
)  # fmt: skip
def test_the_templates_of_real_families(checkpoint: Path, name: str) -> None:
    own = load_tokenizer(checkpoint)
    text = (ASSETS / "chat_templates" / f"{name}.jinja").read_text(encoding="utf-8")
    # Those of one collection are printed for readers and lose indent and line breaks before use.
    own.chat_template = text if name[0].isupper() else flat(text)
    own.bos_token = "<|endoftext|>"
    encoded = encode_chat(own, [ASK, SAY], 4096)
    (answer,) = answers(own, encoded)
    assert SAY["content"] in answer
    assert ASK["content"] not in answer
    prompt = own.decode(
        [i for i, n in zip(encoded.input_ids, encoded.labels, strict=True) if n < 0]
    )
    assert ASK["content"] in prompt
    assert SAY["content"] not in prompt


def flat(template: str) -> str:
    return template.replace("    ", "").replace("\n", "")
