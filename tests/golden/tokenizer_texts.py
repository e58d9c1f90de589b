"""Texts on which byte-level BPE tokenizers tend to differ, for make_golden.py."""

import random

ADDED = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|box_end|>", "<|vision_start|>",
         "<|image_pad|>", "<tool_call>", "</tool_call>", "<|fim_prefix|>", "<|file_sep|>"]

PLAIN = [
    "", "a", " ", "Hello world", " Hello world", "hello  world", "hello   world   ", "HELLO", "HeLLo WoRLD",
    "A cat holding a sign that says hello world", "Ultra HD, 4K, cinematic composition.", "a{b}c {} {{}}", "%s %d %%",
    "C:\\path\\to\\file", "https://example.org/a?b=c&d=%20#e", "user@example.org", "a/b//c///d", "x=1;y=2;",
    "\"quoted\"", "`code` ```block```", "#tag @name", "a_b__c", "--flag=value", "(a)[b]{c}<d>", "a.b.c...", "?!?!",
    "$2 per cup", "50%", "1,234.56", "3.14159", "1e-6", "0x1F", "v1.2.3", "12345678901234567890", "1st 2nd 3rd",
    "a1b2c3", "1a2b3c", "一只猫坐在沙发上，阳光明媚。", "通义千问 Qwen", "π-通义千问", "繁體中文字", "中文English混排123", "「引号」、《书名》……——", "，。！？；：",
    "𠮷野家", "㐀㐁", "日本語のテスト", "カタカナ", "ｶﾀｶﾅ", "ひらがな ー", "全角ＡＢＣ１２３", "한국어 텍스트", "한국어 テスト", "สวัสดีชาวโลก", "ภาษาไทย ๑๒๓",
    "नमस्ते दुनिया", "क्षत्रिय", "தமிழ் மொழி", "বাংলা ভাষা", "తెలుగు", "ಕನ್ನಡ", "മലയാളം", "ગુજરાતી", "ਪੰਜਾਬੀ", "සිංහල",
    "မြန်မာ", "ខ្មែរ", "ລາວ", "བོད་ཡིག", "ქართული", "Հայերեն", "ᠮᠣᠩᠭᠣᠯ", "አማርኛ", "العربية", "مرحبا بالعالم ١٢٣",
    "עברית שלום", "שָׁלוֹם", "بِسْمِ", "فارسی ۱۲۳", "Привет, мир!", "Ελληνικά", "Tiếng Việt", "naïve café", "Straße",
    "İstanbul ıI", "ŒœÆæ", "ﬁ ﬂ ﬀ", "ǅ ǆ Ǆ", "ß ẞ", "Å Å", "Ω Ω", "K K", "🐱", "🐱🚀 emoji", "👩‍👩‍👧‍👦", "👍🏽👍🏿", "🇩🇪🇫🇷",
    "❤️ ❤", "1️⃣2️⃣", "🏴󠁧󠁢󠁥󠁮󠁧󠁿", "a🐱b", "🐱 🐱", "☺︎ ☺️", "👩🏻‍💻x", "𝔘𝔫𝔦𝔠𝔬𝔡𝔢", "𝟘𝟙𝟚", "𐍈𐌰", "𓀀𓂀", "🂡🂢", "😀" * 5,
]

CONTRACTIONS = [f"{word}'{tail}" for word, tail in [
    ("it", "s"), ("can", "t"), ("you", "re"), ("I", "ve"), ("I", "m"), ("we", "ll"), ("he", "d"), ("IT", "S"),
    ("CAN", "T"), ("YOU", "RE"), ("YOU", "Re"), ("you", "rE"), ("I", "VE"), ("I", "Ve"), ("I", "M"), ("WE", "LL"),
    ("WE", "Ll"), ("we", "lL"), ("HE", "D"), ("it", "\u017f"), ("it", "\u017fx"), ("it", "sx"), ("it", "tx"),
    ("we", "llx"), ("we", "l"), ("you", "r"), ("I", "v"), ("x", "e"), ("x", "1"), ("x", " s"), ("1", "s"), ("猫", "s"),
    ("x", "\u212a"), ("x", "")]] + [
    "'s", " 's", "''s", "'s's", "'S'T'RE", "’s it’s", "don't've", "'tis", "'em", "rock'n'roll", "'\u017f", " '\u017fa",
    "''", "'", "' '", "x'\ns", "'\u0301s", "'s\u0301", "'d\u0323", "'ll'", "'re're", "'LL'VE'M'D"]

SPACES = ["  ", "   ", "\t", "\t\t", "\n", "\n\n", "\r", "\r\n", "\r\n\r\n", "\n\r", "\n \n", " \n", "\n ", " \n ",
          "  \n  \n  ", "\r\r\n\n", "a\nb", "a\n\nb", "a \nb", "a\n b", "a\r\nb", "a \r\n b", "a\t\tb", "a \tb",
          "a\t b", "a  b", "a   b", "a    ", "   a", "\n\na", "a\n\n\n", ".\n", ".\n\n", "!\r\n\r\nx", " .\n .\n",
          "...\n\n  x", "a.\r\rb", "\x0b\x0ca", "a\x0b b", "a\u00a0b", "a\u00a0\u00a0b", "a\u3000b", "\u3000\u3000a",
          "a\u2003 b", "a\u200ab", "a\u2028b", "a\u2029b", "a\u202fb", "a\u205fb", "a\u1680b", "a\u0085b",
          "a\u0085\u0085 b", "a\u200bb", "a\u200b b", "\ufeffa", "a\u2060b", "a\u180eb", "\u00a0\n", "\u3000\n\u3000x",
          " \u00a0 1", "  1", "   12", " \t1", "\n1", "1 \n2", "  '", "  's", "   !", "\t!", "\n!", "\u00a0!",
          "\u00a0a", "\u20031", "line1\r\nline2\t\ttab", "trailing   ", "  leading", "a \n\n  b\n c  \n", "\t\n\t\nx",
          "\x1c\x1d\x1e\x1f", "a\x1cb", " \x1c b"]

CONTROLS = ["\x01", "\x02\x03", "a\x07b", "\x1b[0m", "\x7f", "a\x7f b", "\x80\x81", "\x9f", "\u00ad", "so\u00adft",
            "\u200e\u200f", "\u202aabc\u202c", "\u2066x\u2069", "\ufffd", "\ufffc", "\ufff9", "\uffff", "\ufdd0",
            "\U0001ffff", "\U0010ffff", "\u0378", "a\u0378b", "\u0380 1", "\U000e0000", "\U000e0fff", "\ue000",
            "\uf8ff x", "\U000f0000", "\U00100000y", "\U0003fffd", "\u2fe0", "\u05ff", "\x08\x08"]

NUMBERS = ["٠١٢٣", "۴۵۶", "०१२", "০১", "๐๑", "០១", "０１２", "𝟎𝟏", "²³¹", "½ ¼ ⅓", "①②③", "⒈⒉", "Ⅷ ⅷ", "〇一二", "㈠㊀", "㉈",
           "੧੨", "௰௱", "፩፪", "𐄇𐄈", "𑁦", "𒐀", "꘠", "१२abc", "x²", "a½b", " ½", "1½", "𝟚a", "10²", "No. ①a", "Ⅳth", "２a",
           "H₂O"]

MARKS = ["e\u0301", "te\u0301 x", "a\u0323\u0307", "a\u0307\u0323", "\u0301", "\u0301a", " \u0301a", "1\u0301",
         "\u0301\u0302\u0303", "e\u0301\u0301", "\u1112\u1161\u11ab", "\u1112\u1161", "\u1112 \u1161", "\uac00\u11a8",
         "\u1100\u1161\u11a7", "\u1100\u1161\u11a8\u11a8", "\u0958", "\u0915\u093c", "\u0344", "\u212b", "\u2126",
         "\u212a", "\u1e9b\u0323", "q\u0307\u0323", "d\u0323\u0307", "\u0bc6\u0bbe", "\u0cc6\u0cc2\u0cd5",
         "\u30ab\u3099", "\u304b\u3099", "\u30cf\u309a", "\uf900", "\ufa0e", "\ufb1d", "\u05d9\u05b4", "\u2adc",
         "\u0f43", "\U0001d15e", "\U0002f800", "\U00011099\U000110ba", "o\u0302\u0301", "o\u0301\u0302",
         "\u01d6 u\u0308\u0304", "s\u0323\u0307", "\u1e69", "A\u030a", "\u2260 =\u0338", "<\u0338", ">\u0338",
         "a\u0300\u0316\u0301\u0317b", "x\u0301\ny", ".\u0301.", "!\u0301 a", "\n\u0301", "e\u200d\u0301",
         "\u0e01\u0e33", "\u0e4d\u0e32", "\u0915\u094d\u0937", "a\u0315\u0300\u05ae\u0062", "\u0344x\u0344",
         "Z\u0351\u036b\u0343\u036a\u0302\u036b\u033d\u034f\u0334\u0319\u0324\u031e\u0349\u035a", "\ufb2a \ufb49",
         "\u0340\u0341\u0343"]

SPECIAL = ["<|im_end|>", "x<|im_end|>y", " <|im_end|> ", "<|im_start|>user\nhi<|im_end|>\n", "<|im_end|><|im_end|>",
           "<|im_start|><|im_end|><|endoftext|>", "<|im_end", "<|im_end|", "im_end|>", "<|IM_END|>", "<| im_end |>",
           "<|im_end|>>", "<<|im_end|>", "<|<|im_end|>|>", "<tool_call>", "</tool_call>", "<tool_call></tool_call>",
           "<tool_call>{\"a\":1}</tool_call>", "<tool_call", "tool_call>", "</tool_call", "<|image_pad|>" * 3,
           "<|vision_start|><|image_pad|><|vision_end|>", "a <|file_sep|>\n\n b", "\n<|im_start|>\n",
           "  <|box_start|>  <|box_end|>  ", "<|quad_start|>1<|quad_end|>2", "<|object_ref_start|>猫<|object_ref_end|>",
           "<|fim_prefix|>a<|fim_suffix|>b<|fim_middle|>", "<|fim_pad|><|repo_name|>x", "it<|im_end|>'s",
           "'<|im_end|>s", "a<|im_end|>\u0301b", "a<|im_end|>\u0338b", "<tool_call>\u0338", "<|im_end|\u0338>",
           "e<|im_end|>\u0301", "\u0301<|im_end|>", "<\u0338|im_end|>", "<|endoftext|>\r\n<|endoftext|>",
           "<|video_pad|>🐱<|vision_pad|>", "<|extra_0|>", "<s></s>[INST]", "<think></think>", "<|img|>",
           "<|endofprompt|>"]

ALPHABET = ["a", "b", "S", "t", "LL", "re", "1", "٣", "½", " ", "  ", "\n", "\r", "\r\n", "\t", "'", "'s", "'LL", ".",
            "!", "-", "_", "猫", "の", "한", "\u1112\u1161\u11ab", "\u0301", "\u0323", "e\u0301", "\u00a0", "\u3000",
            "\u200d", "🐱", "❤️", "\u0e33", "\u093f", "\u017f", "\u0085", "\x01", "\u2028", "\U0001f3fd"] + ADDED


def texts():
    """All texts, without duplicates, in a fixed order."""
    rng = random.Random(20260823)
    mixed = ["".join(rng.choice(ALPHABET) for _ in range(rng.randint(2, 14))) for _ in range(150)]
    long = ["a" * 1000, " " * 300, "猫" * 100, "\r\n" * 40, "1" * 50, "e\u0301" * 40, "!?" * 60]
    return list(dict.fromkeys(PLAIN + CONTRACTIONS + SPACES + CONTROLS + NUMBERS + MARKS + SPECIAL + mixed + long))
