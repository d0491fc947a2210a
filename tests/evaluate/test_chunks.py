"""How documents are cut and capped."""

from __future__ import annotations

import pytest

from common.errors import UserError
from toolchain.evaluate.chunks import Chunks, choose_chunks


def cut(
    documents: list[list[int]], *, cap: int = 10_000, seed: int = 0, context: int = 8
) -> Chunks:
    return choose_chunks(
        documents, context_tokens=context, max_positions=cap, bos_token_id=1, seed=seed
    )


def test_every_piece_of_a_document_begins_with_bos_where_the_document_does() -> None:
    chunks = cut([[1, *range(10, 24)]])
    assert chunks.tokens == ((1, *range(10, 17)), (1, *range(17, 24)))
    assert chunks.available_tokens == 15
    assert chunks.positions == 14


def test_without_bos_pieces_are_only_cut() -> None:
    assert cut([list(range(10, 20))]).tokens == (tuple(range(10, 18)), (18, 19))


def test_bos_written_twice_counts_once() -> None:
    assert cut([[1, 1, 5, 6]]).tokens == ((1, 5, 6),)


def test_pieces_that_score_nothing_are_left_out() -> None:
    assert cut([[1], [1, 9], [7]]).tokens == ((1, 9),)


@pytest.mark.parametrize("cap", [1, 5, 7, 40])
def test_the_cap_is_met_exactly(cap: int) -> None:
    documents = [[1, *range(10 * d, 10 * d + 6)] for d in range(1, 20)]
    assert cut(documents, cap=cap).positions == cap


def test_the_choice_depends_on_the_seed_only() -> None:
    documents = [[1, 10 * d, 10 * d + 1] for d in range(1, 50)]
    assert cut(documents, cap=20, seed=3) == cut(documents, cap=20, seed=3)
    assert cut(documents, cap=20, seed=3) != cut(documents, cap=20, seed=4)


def test_no_text_and_no_room_are_errors() -> None:
    with pytest.raises(UserError, match="too short"):
        cut([[1]])
    with pytest.raises(UserError, match="cap"):
        cut([[1, 2, 3]], cap=0)
