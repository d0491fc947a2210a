"""Parts of the server that need none: stop texts, the queue, bodies, the choice of tokens."""

from __future__ import annotations

import threading
import time

import pytest

from runtimes.streaming import TokenChooser
from toolchain.serve.answering import StopTexts
from toolchain.serve.errors import Gone, RequestError
from toolchain.serve.requests import ChatBody, CompletionBody, EmbeddingBody, read_body
from toolchain.serve.turns import Turns

HELLO = [{"role": "user", "content": "hello"}]


@pytest.mark.parametrize(
    ("pieces", "stops", "shown", "hit"),
    [
        (["one two"], ["tw"], "one ", True),
        (["one t", "w", "o"], ["two"], "one ", True),
        (["one t", "w"], ["two"], "one tw", False),
        (["aab"], ["ab"], "a", True),
        (["aa", "ab"], ["aab"], "a", True),
        (["x<", "<|end|", ">y"], ["<|end|>"], "x<", True),
        (["abc"], ["c", "b"], "a", True),
        (["abc"], [], "abc", False),
    ],
)
def test_text_is_cut_where_a_stop_text_begins(
    pieces: list[str], stops: list[str], shown: str, hit: bool
) -> None:
    cut = StopTexts(stops)
    text = ""
    for piece in pieces:
        text += cut.take(piece)
        if cut.hit:
            break
    assert (text + cut.rest(), cut.hit) == (shown, hit)


def test_turns_come_in_order_and_leaving_loses_them() -> None:
    turns, order, first_in = Turns(), [], threading.Event()
    release = threading.Event()

    def hold() -> None:
        with turns.take(lambda: False):
            first_in.set()
            release.wait(10)

    def wait(number: int) -> None:
        with turns.take(lambda: False):
            order.append(number)

    threads = [threading.Thread(target=hold)]
    threads[0].start()
    assert first_in.wait(10)
    for number in range(5):
        threads.append(threading.Thread(target=wait, args=(number,)))
        threads[-1].start()
        while turns.waiting <= number:
            time.sleep(0.001)
    with pytest.raises(Gone), turns.take(lambda: True):
        pass
    release.set()
    for thread in threads:
        thread.join(10)
    assert order == [0, 1, 2, 3, 4] and not turns.busy


def test_too_many_and_a_closed_queue_are_refused() -> None:
    turns = Turns(most_waiting=0)
    with turns.take(lambda: False):
        with pytest.raises(RequestError, match="waiting already"), turns.take(lambda: False):
            pass
        assert not turns.close(timeout_sec=0.01)
    assert turns.close(timeout_sec=1)
    with pytest.raises(RequestError, match="stopping"), turns.take(lambda: False):
        pass


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user"}]}, "messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages"),
        ({"temperature": 3}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"n": 2}, "n"),
        ({"stop": ["x"] * 17}, "stop"),
        ({"stop": [""]}, "stop"),
        ({"frequency_penalty": 0.5}, "frequency_penalty"),
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"min_p": 0.1}, "min_p"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(more: dict[str, object], param: str) -> None:
    with pytest.raises(RequestError) as caught:
        read_body(ChatBody, {"messages": HELLO, **more})
    assert caught.value.param == param and caught.value.status == 400


def test_neutral_values_and_parts_of_text_are_taken() -> None:
    body = {
        **{"messages": [{"role": "developer", "content": [{"type": "text", "text": "a"}]}]},
        **{"n": 1, "frequency_penalty": 0, "presence_penalty": 0.0, "tools": [], "logit_bias": {}},
        **{"stop": "x", "temperature": None, "response_format": {"type": "text"}},
    }
    read = read_body(ChatBody, body)
    assert read.messages[0].plain() == {"role": "system", "content": "a"}
    assert read.stops == ("x",)
    assert read_body(CompletionBody, {"prompt": [1, 2]}).prompt == [1, 2]
    assert read_body(EmbeddingBody, {"input": "x"}).texts == ["x"]
    with pytest.raises(RequestError, match="JSON object"):
        read_body(ChatBody, [1])


def test_top_p_leaves_only_the_likeliest_tokens() -> None:
    import numpy as np

    logits = np.log(np.asarray([0.1, 0.5, 0.3, 0.1], np.float32))

    def drawn(top_p: float) -> set[int]:
        choose = TokenChooser(1.0, 0, top_p)
        return {choose(logits) for _ in range(200)}

    assert drawn(1.0) == {0, 1, 2, 3}
    assert drawn(0.7) == {1, 2}
    assert drawn(0.01) == {1}
    same = [TokenChooser(1.0, 7, 0.9) for _ in range(2)]
    assert [same[0](logits) for _ in range(20)] == [same[1](logits) for _ in range(20)]
