"""Texts on which tokenizers part: what pre-tokenizer patterns, normalizers and byte fall-back
treat each in their own way. Compared in addition to the evaluation text, so that a tokenizer that
is right only on tidy English does not pass."""

from __future__ import annotations

AWKWARD_TEXTS: tuple[str, ...] = (
    "Hello, world! It's the model's first day; they'll say \"we've\" and I'd agree. DON'T SHOUT.",
    "把客厅的灯打开，亮度调到百分之五十。然后关掉空调！“好的”，她说——可以吗？",
    "全角１２３ＡＢＣ，半角123ABC；繁體中文與简体中文混排 English 混排。",
    "ひらがなカタカナ漢字ーﾊﾝｶｸ。한국어 문장도 있습니다.",
    "👩‍👩‍👧‍👦 👍🏽 🇨🇳🇩🇪 ❤️ ☕️ 1️⃣ 🏳️‍🌈 done",
    "e\u0301 versus é, n\u0303 versus ñ, Z\u0351\u036b\u0343a\u0329\u0321l\u0327go",
    "مرحبا بالعالم 123 שלום עולם \u200fright\u200e left",
    "हिन्दी में एक वाक्य, ภาษาไทยไม่มีช่องว่าง, Ελληνικά, Русский текст, Việt Nam, İstanbul ß ﬁ",
    "def f(a, b):\n    if a  <  b:\n\t\treturn {'k': [1, 2.5e-3]}\n    # done\n\n\nprint(f(1,2))",
    '{"device":"light","room":"living_room","value":-12.5,"list":[null,true,"\\u4f60"]}',
    "one  two   three    four     five\t\ttabs \t mixed",
    "line\n\nline\n\n\nline\r\nwindows\r\n\r\nend \n trailing ",
    "   three leading spaces",
    " ",
    "  ",
    "\n",
    "\n\n\n",
    "\t",
    "a",
    "1 12 123 1234 12345 123456 1234567 3.14159 1,000,000 0x7fff 2026-01-31 12:34:56",
    "https://example.org/a_b-c/%E4%BD%A0?q=1&x=y#z user@example.org C:\\path\\to\\file.txt",
    "CamelCase snake_case kebab-case SCREAMING_CASE mixedUPand123digits x'y''z''' --- ... !!! ###",
    "non\u00a0breaking\u2003em\u3000ideographic\u200bzero\u2060joiner\ufeffbom",
    "math ∑∫√≠≤≥ arrows ←→⇒ box ┌─┐ currency €£¥₹ quotes «»„“‚‘ dots …",
    "rare \U0001d54f\U00020000\U0001f9ff and private \ue000 and unassigned \U000e0101",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "<html><body class='x'>&nbsp;&lt;b&gt;</body></html> <not_a_token> [INST] <<SYS>>",
)

CONVERSATIONS: tuple[tuple[dict[str, str], ...], ...] = (
    ({"role": "user", "content": "Turn on the light in the kitchen."},),
    (
        {"role": "system", "content": "You control a house. Answer in JSON."},
        {"role": "user", "content": "把客厅的灯打开，好吗？ 👍🏽"},
    ),
    (
        {"role": "user", "content": "  spaces around  \n\nand lines\n"},
        {"role": "assistant", "content": "Yes.\n"},
        {"role": "user", "content": "And now? {{ 1 }} {% x %} <b>&amp;</b> \"quoted\" 'single'"},
    ),
    (
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "One?"},
        {"role": "assistant", "content": "Two."},
        {"role": "user", "content": "Three?"},
        {"role": "assistant", "content": "Four."},
    ),
)
"""Conversations whose rendered prompts are compared: with and without system message, several
turns, white space at the ends, text that looks like template code."""
