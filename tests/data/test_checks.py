"""Every check of one row: seen red on a planted fault, silent on the clean row beside it."""

from __future__ import annotations

import json
import random
import string

import pytest

from fledge.data.checks.language import language_of
from fledge.data.checks.licence import find_licences
from fledge.data.checks.look import ROW_CHECKS
from fledge.data.checks.mask import Masker, check_personal, find_all
from fledge.data.checks.numbers import IBAN_LENGTHS, is_card, is_iban
from fledge.data.checks.secrets import looks_random
from fledge.data.checks.shape import Ending, common_shape, ending_of, joined
from fledge.data.checks.text import unmangled
from fledge.data.checks.turns import mended
from fledge.data.checks.view import plain, view
from fledge.data.forms.conversations import from_turns
from fledge.data.forms.turns import RowFault
from fledge.records import Conversation, Message, ToolCall


def codes(answer: str, question: str = "What is it?") -> list[str]:
    row = view(Conversation((Message("user", question), Message("assistant", answer)), "rows.jsonl:7"))
    found = [finding for check in ROW_CHECKS for finding in check(row)]
    assert all(finding.where == "rows.jsonl:7" and finding.remedy for finding in found)
    return [finding.code for finding in found]


RED = {
    "data.mojibake": ["Die GrÃ¶ÃŸe", "itâ€™s late", "cafÃ©", "ä½\xa0å¥½", "РџСЂРёРІРµС‚ РјРёСЂ"],
    "data.bad_encoding": ["a lost letter: caf\ufffd"],
    "data.leftover": ["Dear {{first_name}},", "Sincerely, [Your Name]", "[INSERT DATE]", "TODO: write", "lorem ipsum"],
    "data.control_text": ["<|im_start|>user", "a [/INST] b", "</s>", "Assistant: hello",
                          "Hi\nUser: and?\nAssistant: ok", "### Response:\nyes", "<start_of_turn>model"],
    "data.markup": ["<p>hello</p>", "a &amp; b", "a<br/>b"],
    "data.personal": [
        "write to jane.roe@northwind.io", "call +49 151 23456789", "call (415) 867-5309", "tel: 020 7946 1958",
        "card 4539 1488 0343 6467", "IBAN DE89 3704 0044 0532 0130 00", "GB82WEST12345698765432",
        "SSN 536-90-4399", "DNI 12345678Z", "RSSMRA85T10A562S", "CPF 529.982.247-25", "19811218-9876"[2:],
        "PESEL: 44051401359", "11010519491231002X", "from 84.22.107.5", "NIR 2 55 08 14 168 025 38",
        "12 Elm Street, Springfield, IL 62704", "Lindenstraße 12, 10969 Berlin",
        "Steuer-ID 86 095 742 719", "AB123456C",
        "Call me: 06 12 34 56 78", "My telephone 01 42 68 53 00", "my number is 07911 123456", "电话 13812345678",
        "手机号：138 1234 5678", "write to jürgen@müller.de", "写信到jane.roe@northwind.io谢谢",
        "12 rue de la Paix, 75002 Paris", "3 bis avenue Foch\n69006 Lyon", "Calle Mayor 5, 28013 Madrid",
        "Av. de la Constitución 12, 41001 Sevilla", "Via Garibaldi 8\n20121 Milano", "Hauptstr. 5\n80331 München",
        "5 Long Lane\nLondon\nSW1A 1AA", "24 Main Street\nApt 3\nBoston, MA 02118",
        "P.O. Box 123, Springfield, IL 62704", "Postfach 12 34, 80331 München",
    ],
    "data.secret": [
        "AKIAIOSFODNN7EXAMPLE", "ghp_" + "a1B2" * 9, "sk-proj-" + "Ab1" * 12, "AIza" + "Sy0-_" * 7,
        "-----BEGIN RSA PRIVATE KEY-----\nMIIE", "postgres://app:hunter22x@db.acme.io/x", "xoxb-1234567890-abcdef",
        "api_key = 'f3A9k2LmQ8zX7cV1bN5t'", "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.abcDEF123456",
        "hf_" + "aB3d" * 9,
    ],
}  # fmt: skip
CLEAN = [
    "It costs 1,234,567.89 dollars in 2024-11-24, or 3+4=7.",
    "5 * (10 + 20) / 3 = 50 and 48/2 = 24, so 48+24 = 72 clips.",
    "Write to someone@example.com or user@localhost.test.",
    "Version 3.11.7.1 is out; see section 1.2.3.4, 10.0.0.1 and 127.0.0.1.",
    "The ISBN is 978-3-16-148410-0 and the order 4539148803436468.",
    "IBAN DE89 3704 0044 0532 0130 01 has a wrong check digit.",
    "Call 555-0123 is said in films only. Call +1 212 555 0123 too.",
    "Use `<p>` for a paragraph, and `{% if %}` in a template.",
    "```html\n<p>hello</p>\n```",
    "if a < b and b > c: pass  # x <y> z",
    "Россия, СССР, РФ и Сибирь: Рим, Рига, Сочи. РОССИЯ. Србија и Ріка, Сіль, Рєпа.",
    "Ärger, Größe, naïve, Ça va? À côté, São Paulo, Â.",
    "你好，世界。こんにちは。",
    "The token is a short word and the password is a long one that you choose yourself.",
    "Keep your api_key secret: set api_key = YOUR_API_KEY_GOES_HERE before you begin.",
    "https://user:password@host.example/path",
    "Our hours: Monday to Friday 9-18. [Hours] Can I help with anything else?",
    "print(f'{name}: {value}') and items[0] and a[insert]",
    "Answer: 42",
    "Call the function on 0123456789 items, and ping 93.184.216.34 if you like.",
    "The rue de Rivoli is long; 12 rue de Rivoli, 2 stops on, is a film. In Via Appia 7, 8 and 9 nothing is left.",
]


@pytest.mark.parametrize(("code", "text"), [(code, text) for code, texts in RED.items() for text in texts])
def test_a_planted_fault_is_seen(code: str, text: str) -> None:
    assert code in codes(text)


@pytest.mark.parametrize("text", [text for text in CLEAN if text != "Answer: 42"])
def test_a_clean_row_is_left_alone(text: str) -> None:
    assert codes(text) == []


def test_a_card_number_is_seen_with_one_digit_changed_it_is_not() -> None:
    rng = random.Random(0)
    for _ in range(200):
        body = [4, *(rng.randrange(10) for _ in range(14))]
        # Luhn by its other description: digits that were doubled are looked up in a table.
        total = sum(
            (0, 2, 4, 6, 8, 1, 3, 5, 7, 9)[d] if place % 2 == 0 else d for place, d in enumerate(reversed(body))
        )
        number = "".join(map(str, [*body, -total % 10]))
        assert is_card(number)
        place = rng.randrange(1, 16)
        assert not is_card(number[:place] + str((int(number[place]) + 1) % 10) + number[place + 1 :])


def test_an_iban_is_seen_and_any_two_digits_swapped_are_not() -> None:
    rng = random.Random(1)
    for country in ("DE", "FR", "NL", "GB", "NO"):
        body = "".join(rng.choice(string.digits) for _ in range(IBAN_LENGTHS[country] - 4))
        # The check digits by long division, digit by digit.
        rest = 0
        for digit in "".join(
            str(string.digits.find(c)) if c.isdigit() else str(ord(c) - 55) for c in body + country + "00"
        ):
            rest = (rest * 10 + int(digit)) % 97
        iban = f"{country}{98 - rest:02d}{body}"
        assert is_iban(iban)
        swaps = [n for n in range(4, len(iban) - 1) if iban[n] != iban[n + 1]]
        assert not any(is_iban(iban[:n] + iban[n + 1] + iban[n] + iban[n + 2 :]) for n in swaps)


@pytest.mark.parametrize(
    "text", ["Größe, Straße, naïve café", "“quotes” – and… dashes", "Привет мир", "日本語", "100 €"]
)
def test_what_was_read_in_the_wrong_encoding_comes_back(text: str) -> None:
    broken = "".join(bytes([b]).decode("cp1252", errors="ignore") or chr(b) for b in text.encode())
    assert broken != text
    assert unmangled(broken) == text
    assert unmangled(text) == text
    mixed = f"Größe {broken}"
    assert unmangled(mixed) == f"Größe {text}"


def test_cyrillic_read_in_the_wrong_encoding_comes_back() -> None:
    text = "Привет, мир! Ещё один день в Київ і Санкт-Петербурге."
    broken = "".join(bytes([b]).decode("cp1251", errors="ignore") or chr(b) for b in text.encode())
    assert broken != text
    mended_words = unmangled(broken).split()
    # A letter alone is too little to tell.
    assert [word for word in mended_words if len(word) > 2] == [word for word in text.split() if len(word) > 2]
    assert unmangled(text) == text


def test_masks_are_stable_and_leave_nothing() -> None:
    masker = Masker()
    first = masker("jane.roe@northwind.io wrote to joe@acme.io, then Jane.Roe@northwind.io called +49 151 23456789.")
    assert first == "<EMAIL_1> wrote to <EMAIL_2>, then <EMAIL_1> called <PHONE_1>."
    assert masker("again joe@acme.io and ghp_" + "a1B2" * 9) == "again <EMAIL_2> and <SECRET_1>"
    assert find_all(first) == []
    assert masker.masked == 6


def test_secrets_are_not_repeated_in_the_report() -> None:
    secret = "ghp_" + "a1B2" * 9
    row = view(Conversation((Message("user", "?"), Message("assistant", secret)), "x:1"))
    told = [str(finding) for check in ROW_CHECKS for finding in check(row)]
    assert told and not any(secret in text or secret[8:20] in text for text in told)


def test_words_do_not_look_random() -> None:
    assert looks_random("f3A9k2LmQ8zX7cV1bN5t")
    assert not looks_random("internationalization2024")
    assert not looks_random("aaaaaaaa11111111")


LANGUAGES = {
    "en": "There is a house in which they have been living since the old man was young.",
    "de": "Das ist ein Haus, in dem sie seit vielen Jahren wohnen, weil der alte Mann es nicht verkaufen wird.",
    "fr": "C'est une maison dans laquelle ils habitent depuis que le vieil homme est parti avec les enfants.",
    "es": "Esta es una casa en la que viven desde hace muchos años porque el hombre no la quiere vender.",
    "it": "Questa è una casa nella quale vivono da molti anni perché il vecchio non la vuole vendere.",
    "pt": "Esta é uma casa em que eles moram há muitos anos porque o velho não quer vender para ninguém.",
    "nl": "Dit is een huis waarin ze al jaren wonen omdat de oude man het niet aan een ander wil verkopen.",
    "pl": "To jest dom, w którym oni mieszkają od lat, ponieważ jego ojciec nie chce go sprzedać, ale może już czas.",
    "zh": "这是一座老房子，他们已经在这里住了很多年。",
    "ja": "これは古い家で、彼らは何年もここに住んでいます。",
    "ko": "이것은 오래된 집이고 그들은 여기서 오래 살았습니다.",
    "ru": "Это старый дом, в котором они живут уже много лет, потому что он был дешёвым.",
    "uk": "Це старий будинок, у якому вони живуть уже багато років, і їм тут подобається.",
    "ar": "هذا بيت قديم يعيشون فيه منذ سنوات طويلة",
    "el": "Αυτό είναι ένα παλιό σπίτι στο οποίο ζουν πολλά χρόνια",
}


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_sentence_is_in_its_language(language: str) -> None:
    assert language_of(LANGUAGES[language]) == language


@pytest.mark.parametrize("text", ["", "42", "x = y + 1", "OK", "Xyzzy plugh frotz.", "def f(a, b): return a"])
def test_what_says_too_little_is_in_no_language(text: str) -> None:
    assert language_of(text) == ""


@pytest.mark.parametrize(
    ("text", "ending"),
    [
        ("The quick brown fox jumps over the lazy dog every day.", Ending.CLOSED),
        ("The quick brown fox jumps over the lazy dog and then it", Ending.OPEN),
        ("The quick brown fox jumps over the lazy dog, and further,", Ending.OPEN),
        ("See:\n```python\nprint(1)\n", Ending.OPEN),
        ("See:\n```python\nprint(1)\n```", Ending.UNJUDGED),
        ("yes", Ending.UNJUDGED),
        ("Of all the people that I know best is Paul Rand", Ending.UNJUDGED),
    ],
)
def test_how_an_answer_ends(text: str, ending: Ending) -> None:
    assert ending_of(text) is ending


SHAPED = {
    "a tag in brackets first": lambda n: f"[Tag{n}] some words {n * 7}",
    "a JSON object with the same keys": lambda n: json.dumps({"name": f"n{n}", "age": n}),
    "labelled lines in one order": lambda n: f"Module: m{n}\nCode: c{n * 3}",
    "the result on a last line of its own": lambda n: f"{n} and {n}\n#### {2 * n}",
    "the same end": lambda n: f"word{n * 13} is it. Anything else?",
    "the same beginning": lambda n: f"Well, my friend: word{n * 13}",
    "one pair of tags around all": lambda n: f"<answer>{n}</answer>",
}


@pytest.mark.parametrize("name", SHAPED)
def test_a_common_form_is_found_and_tells_the_odd_one(name: str) -> None:
    import re

    answers = [SHAPED[name](n) for n in range(40)]
    [found] = common_shape([*answers, "nothing of the kind"])
    assert found[0] == name
    pattern = re.compile(found[1], re.DOTALL)
    assert all(pattern.fullmatch(answer) for answer in answers)
    assert not pattern.fullmatch("nothing of the kind")


def test_how_answers_begin_and_how_they_end_are_both_told() -> None:
    """Only the first shape was: an answer without its end marker, or with more behind it, went through."""
    import re

    answers = [f"Module: m{n}\nCode: import m{n * 3}\n### DONE!" for n in range(22)]
    odd = ["Module: bad\nCode: import bad", "Code: x\nModule: y\n### DONE!", f"{answers[0]}\nAnything else?"]
    name, shape = joined(common_shape([*answers, *odd]))
    assert name == "labelled lines in one order and the same end"
    assert [bool(re.fullmatch(shape, one, re.DOTALL)) for one in [*answers, *odd]] == [True] * 22 + [False] * 3


def test_personal_data_is_seen_wherever_it_is_masked() -> None:
    call = ToolCall("mail", '{"to": "joe.b@northwind.io"}')
    for turn in (Message("assistant", "ok", tool_calls=(call,)), Message("assistant", "ok", thinking="call.b@web.de")):
        row = view(Conversation((Message("user", "Mail it."), turn), "x:1"))
        assert [finding.code for finding in check_personal(row)] == ["data.personal"]


def test_free_answers_and_classes_have_no_form() -> None:
    rng = random.Random(0)
    assert common_shape(["".join(rng.choices(string.ascii_lowercase + " ", k=50)) for _ in range(100)]) == []
    assert common_shape(["positive", "negative"] * 50) == []


U, A, S = ({"role": role, "content": "x"} for role in ("user", "assistant", "system"))
EMPTY = {"role": "assistant", "content": " "}


@pytest.mark.parametrize(
    ("turns", "roles", "done"),
    [
        ([U, A, U], ["user", "assistant"], "unanswered last turn"),
        ([U, U, A], ["user", "assistant"], "joined"),
        ([U, EMPTY, U, A], ["user", "assistant"], "1 empty turn dropped"),
        ([U, A, S, U, A], ["system", "user", "assistant", "user", "assistant"], "put to the front"),
        ([U, A, A], ["user", "assistant"], "joined"),
    ],
)
def test_turns_are_mended_where_it_is_safe(turns: list[dict[str, str]], roles: list[str], done: str) -> None:
    with pytest.raises(RowFault):
        from_turns({"messages": turns})
    found = mended({"messages": turns, "group": "g"})
    assert found is not None
    assert [message.role for message in found[0].messages] == roles
    assert any(done in what for what in found[1])
    assert found[0].group == "g"


@pytest.mark.parametrize("turns", [[U], [A], [S], [EMPTY], [], [{"role": "nobody", "content": "x"}, U, A]])
def test_what_is_not_safe_is_not_mended(turns: list[dict[str, str]]) -> None:
    assert mended({"messages": turns}) is None


def test_no_word_is_lost_in_joining() -> None:
    turns = [{"role": role, "content": f"w{n}"} for n, role in enumerate(["user", "user", "assistant", "assistant"])]
    found = mended({"messages": turns})
    assert found is not None
    assert " ".join(m.content for m in found[0].messages).split() == ["w0", "w1", "w2", "w3"]


def test_questions_are_folded_but_arithmetic_stays() -> None:
    assert plain("What is  PYTHON?") == plain("what is python")
    assert plain("3-4?") != plain("3+4?")


@pytest.mark.parametrize(
    ("name", "text", "licence"),
    [
        ("LICENSE", "Permission is hereby granted, free of charge, to any person obtaining", "MIT"),
        ("README.md", "---\nlicense: cc-by-nc-4.0\n---\nRows.", "CC-BY-NC-4.0"),
        ("SOURCE.md", "- Licence: Apache License, Version 2.0", "Apache-2.0"),
        ("LICENSE.txt", "Do as I say.", ""),
    ],
)
def test_a_licence_is_named(tmp_path, name: str, text: str, licence: str) -> None:
    (tmp_path / name).write_text(text)
    (tmp_path / "rows.jsonl").write_text("{}")
    [found] = find_licences([tmp_path / "rows.jsonl"])
    assert found.name == licence
    assert bool(found.restricts) == ("NC" in licence)


def test_no_licence_is_none(tmp_path) -> None:
    (tmp_path / "README.md").write_text("Some rows.")
    assert find_licences([tmp_path]) == []
