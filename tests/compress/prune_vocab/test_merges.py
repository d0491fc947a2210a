"""What a token is built of."""

from toolchain.compress.prune_vocab.merges import Merges

MERGES = ["t h", ["th", "e"], "h e", "r e", ["the", "re"], "a a", "aa a"]


def test_a_token_needs_what_its_merges_make_on_the_way() -> None:
    assert Merges(MERGES).parts("there") == ["t", "h", "e", "r", "e", "th", "the", "re", "there"]


def test_the_leftmost_of_equal_pairs_comes_first() -> None:
    assert Merges(MERGES).parts("aaa") == ["a", "a", "a", "aa", "aaa"]


def test_a_token_that_no_merge_makes_stands_alone() -> None:
    assert Merges(MERGES).parts("<0x0A>") == ["<0x0A>"]


def test_merges_stay_in_order_and_in_their_spelling() -> None:
    assert Merges(MERGES).among({"t", "h", "e", "th", "the", "he"}) == ["t h", ["th", "e"], "h e"]
