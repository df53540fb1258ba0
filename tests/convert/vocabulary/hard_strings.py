"""A page of texts that tokenizers disagree about."""

from __future__ import annotations

HARD_STRINGS = {
    "words": "Hello world, this is a test. It's Well-known; we'll see, they've DON'T 'tis I'M O'Neil's",
    "cases": "camelCase PascalCase UPPERCASE HTTPServer iPhone XMLHttpRequest aB Ab",
    "digits": "1 12 123 1234 12345 123456 3.14159 1,000,000 0xFF 2024-10-05 a1b22c333d4444 ¹²³ ½ Ⅷ ٣٤٥ ५६७",
    "punctuation": "!?.,;:…—–-_()[]{}<>«»“”‘’\"'`~@#$%^&*+=|\\/ a.b,c!d ?!?! ... ------ ======= ´¨",
    "spaces": " one  two   three    four     five\ttab\t\ttwo  ",
    "newlines": "line\nline\n\nline\n\n\nline\r\nline\r\n\r\nend\n",
    "blank": " \n  \n\n   \t\n ",
    "unusual spaces": "no\u00a0break thin\u2009space ideographic\u3000space line\u2028separator zero\u200bwidth",
    "code": 'def f(x: int) -> str:\n    """Doc."""\n    return f"{x:>8}"  # done\n\nfor (i = 0; i < 9; ++i) { a[i] }',
    "url": "See https://example.com/a/b?c=d&e=f#g, or mail me@example.org; path/to/file.txt //comment /* x */",
    "accents": "Äpfel und Öl, où est l'élève, mañana, Ångström, naïve façade, İstanbul, Þór, œuvre",
    "accents apart": "e\u0301te\u0301 A\u030angstro\u0308m n\u0303",
    "Greek and Cyrillic": "Ελληνικά γλώσσα ΚΕΦΑΛΑΙΑ нещо на Български ЗАГЛАВНЫЕ буквы їжак",
    "Chinese": "我想在apple工作1314151天～ 你好，世界！这是一个测试。",
    "Japanese": "これはテストです。カタカナとひらがな、漢字ＡＢＣ１２３",
    "Korean": "한국어 텍스트입니다, 안녕하세요! ㄱㄴㄷ",
    "Arabic and Hebrew": "مرحبا بالعالم، كيف الحال؟ שלום עולם",
    "Thai and Khmer": "สวัสดีชาวโลก กำลัง កាន់តែពិសេសអាច",
    "Devanagari": "नमस्ते दुनिया। हिन्दी में",
    "emoji": "🚀 😶‍🌫️ ✅ 🦙🦙 👩‍👩‍👧‍👦 🇩🇪🇯🇵 👍🏽 ❤️ #️⃣",
    "mixed": "a中b文c 日本語text テスト123 한글abc x²+y²=z² €100 £5 ¥500 50% C++ C# .NET",
    "control": "bell\x07 null-less \x1b[31m del\x7f",
    "surrogate range": "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𐐀𐐁 𠮷野家 \U0010fffd",
    "special tokens": "<s>text</s> <|end|>not<|end|>  <|end|> a<extra>b",
    "lookalikes": "</s <s > <|end| |> [INST] <unk> <0x0A>",
}
