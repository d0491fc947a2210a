"""The demo model's tokenizer: a byte-level BPE with the pre-tokenizer of Qwen2 and ChatML."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' "
    "+ message['content'] + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
GENERAL_TEXT: tuple[str, ...] = (
    "The quick brown fox jumps over the lazy dog.",
    "All people are born free and have the same rights.",
    "Water boils at one hundred degrees and freezes at zero.",
    "She walked along the river and thought about the summer that had just ended.",
    "There is nothing better than a good book on a rainy afternoon.",
    "When the train arrived, the station was almost empty.",
    "He has been working on this project for more than three years.",
    "The results of the experiment were published in a scientific journal.",
    "You should always read the instructions before you use the machine.",
    "What would you do if you had more time?",
    "They said that it could not be done, but she did it anyway.",
    "The city was founded more than two thousand years ago.",
    "In the morning we drank tea and looked at the mountains.",
    "A small computer can run a language model without any network connection.",
    "The government announced new plans for public transport this week.",
    "I think that we will have to wait until the other members of the group come back.",
    "Music, science and history were her favourite subjects at school.",
    "Please write your name and address at the top of the page.",
    "The weather forecast for tomorrow is cloudy with some sunshine.",
    "Most of these questions have no simple answer.",
    "import os; print(len(sys.argv)); return {'name': 'value', 'id': 1}",
    "人人生而自由，在尊严和权利上一律平等。",
    "学而时习之，不亦说乎？有朋自远方来，不亦乐乎？",
    "今天天气很好，我们一起去公园散步吧。",
    "中国的历史非常悠久，文化丰富多彩。",
    "他在这家公司工作了三年，上个月换了新的工作。",
    "水在一百摄氏度沸腾，在零度结冰。",
    "如果你有更多的时间，你会做什么？",
    "这本书我已经看过了，但是我还想再看一遍。",
    "科学家们发表了最新的研究结果。",
    "火车到站的时候，天已经黑了。",
    "使用机器之前，请先阅读说明书。",
    "一台小小的计算机也可以运行语言模型，不需要网络。",
    "她喜欢音乐、历史和科学，也喜欢学习外语。",
    "城市的发展给人们的生活带来了很大的变化。",
    "我们应该保护环境，因为地球是我们共同的家。",
    "孩子们在学校里学习数学、语文和英语。",
    "没有人知道明天会发生什么事情。",
)


def train_tokenizer(vocabulary: int, conversations: Sequence[str]) -> Any:
    """A byte-level BPE over rendered conversations and some general text."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(_SPLIT), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])  # fmt: skip
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=list(SPECIAL_TOKENS), show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    tokenizer.train_from_iterator([*conversations, *(GENERAL_TEXT * 60)], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>",
        chat_template=CHAT_TEMPLATE, model_max_length=2048, clean_up_tokenization_spaces=False,
    )  # fmt: skip
