"""Natural paragraphs in old encodings are read letter for letter, whatever their language; nothing needs to be told."""

from __future__ import annotations

import codecs
import random
from pathlib import Path

import pytest

from fledge.data.readers import cesu
from fledge.data.readers.code_pages import best_page
from fledge.data.readers.opening import find_encoding, open_text
from fledge.data.sources import open_source, read_rows
from fledge.records import Row

WESTERN = {
    "en": "Thank you for contacting us. The standard ticket costs £25 and the premium ticket costs £40, so for two "
    "adults you would pay £65 in total. If you cancel 48 hours before the visit we refund everything but a £5 "
    "fee. Parking is £3 an hour. The café opens at nine; breakfast is £7.50 – and a coffee “only” £2.80.",
    "fr": "Bonjour, j'ai reçu ma commande hier mais le colis était abîmé et il manque deux pièces. Je suis très déçue, "
    "car c'était un cadeau pour l'anniversaire de ma mère. Pouvez-vous me renvoyer les éléments manquants le "
    "plus tôt possible ? Où dois-je envoyer les photos ? Merci d'avance, et à bientôt j'espère.",
    "pt": "A língua portuguesa é uma língua românica, originada no galego-português falado no norte de Portugal. Não "
    "há dúvida de que a educação e a comunicação são essenciais para a população; porém, as condições de ensino "
    "ainda não são iguais em todas as regiões.",
    "it": "La città è famosa per la sua università e per la qualità della vita. Perché non vieni a trovarmi? Sarà un "
    "piacere: potrà vedere il castello, che è già aperto, e poi andremo giù al fiume. Però lunedì non posso, "
    "martedì sì.",
    "nl": "Volgens de coördinator zijn er drie ideeën om de reünie te organiseren. Het café is geïnteresseerd, maar "
    "België heeft één probleem: de financiën zijn niet geregeld. Wij hebben alles geïnformeerd, en vóór zondag "
    "hoort u meer.",
    "fi": "Helsinki on Suomen pääkaupunki ja väkiluvultaan suurin kunta. Kesällä päivät ovat pitkiä ja yöt lyhyitä, "
    "mutta talvella pimeys kestää pitkään. Tänään sää on kylmää, mutta huomenna lämpenee.",
    "sv": "Stockholm är Sveriges huvudstad och största tätort. Staden ligger på öar där Mälaren rinner ut i Östersjön. "
    "Vintrarna är mörka och kalla, men somrarna är ljusa, och många åker då ut till skärgården för att bada och "
    "äta kräftor.",
    "da": "København er Danmarks hovedstad og landets største by. Byen ligger på øerne Sjælland og Amager ved Øresund. "
    "I dag er der mange museer og caféer, og både turister og københavnere færdes på cykel året rundt.",
    "de": "Guten Tag, ich möchte gern wissen, wie lange die Lieferung noch dauert. Können Sie mir außerdem sagen, ob "
    "die Größe geändert werden kann? Übrigens wäre es schön, wenn Sie mich zurückrufen könnten. Grüße aus "
    "München.",
    "es": "Buenos días, quería saber cuándo llegará mi pedido. También me gustaría cambiar la dirección de envío, "
    "porque mañana estaré de viaje. ¿Podría decirme cuánto costaría? Muchas gracias por su atención, señor.",
    "is": "Hvað er þetta? Það er gott veður í dag og við ætlum að ganga á fjallið. Þú ert góður vinur, en ég þarf að "
    "fara heim því að það er orðið áliðið. Hún sagði að þau hefðu verið þar í fyrra.",
}
OTHERS = {
    "pl": "Dzień dobry, zamówiłem książkę w zeszłym tygodniu, ale jeszcze nie przyszła. Czy może mi pan powiedzieć, "
    "kiedy będzie wysłana? Bardzo proszę o odpowiedź, bo to prezent dla żony na święta. Dziękuję, życzę miłego "
    "dnia.",
    "cs": "Dobrý den, minulý týden jsem si objednal knihu, ale ještě nepřišla. Můžete mi říct, kdy bude odeslána? Je "
    "to dárek pro mou ženu k narozeninám, které má příští úterý. Děkuji za odpověď a přeji hezký den.",
    "hu": "Jó napot kívánok, a múlt héten rendeltem egy könyvet, de még nem érkezett meg. Meg tudná mondani, hogy "
    "mikor küldik el? Ez ajándék a feleségemnek, és jövő kedden van a születésnapja. Köszönöm, várom a válaszát, "
    "üdvözlettel.",
    "tr": "Merhaba, geçen hafta bir kitap sipariş ettim ama daha gelmedi. Ne zaman gönderileceğini söyleyebilir "
    "misiniz? Bu, karım için bir doğum günü hediyesi ve çok önemli. Cevabınız için teşekkür ederim, iyi günler.",
    "ru": "Здравствуйте, на прошлой неделе я заказал книгу, но она ещё не пришла. Скажите, пожалуйста, когда её "
    "отправят? Это подарок для моей жены. Спасибо за ответ.",
    "el": "Καλημέρα, την περασμένη εβδομάδα παρήγγειλα ένα βιβλίο, αλλά δεν έχει έρθει ακόμα. Μπορείτε να μου πείτε "
    "πότε θα σταλεί; Είναι δώρο για τη γυναίκα μου. Ευχαριστώ πολύ για την απάντηση.",
    "he": "שלום, הזמנתי ספר בשבוע שעבר אבל הוא עדיין לא הגיע. תוכלו לומר לי מתי הוא יישלח? זו מתנה ליום ההולדת של אשתי "
    "ואני צריך אותה עד יום שלישי. תודה רבה על התשובה.",
    "ja": "こんにちは。先週本を注文しましたが、まだ届いていません。いつ"
    "発送されるか教えていただけますか。妻への誕生日の贈り物なので"
    "、来週の火曜日までに必要です。よろしくお願いします。",
}
PAGES = [
    *((name, page) for name in WESTERN for page in ("cp1252", "latin-1", "mac_roman")),
    *((name, page) for name in ("pl", "cs", "hu") for page in ("cp1250", "iso8859_2")),
    ("tr", "cp1254"),
    *(("ru", page) for page in ("cp1251", "koi8_r", "mac_cyrillic", "cp866")),
    *(("el", page) for page in ("cp1253", "iso8859_7")),
    ("he", "cp1255"),
    ("ja", "shift_jis"),
    ("ja", "euc_jp"),
]


def as_page(text: str, page: str) -> str:
    """Return the text as somebody writes it who has that page: Latin-1 has no curly quotes, a Mac no Icelandic."""
    return text.encode(page, errors="ignore").decode(page)


@pytest.mark.parametrize("num_rows", [1, 4, 20])
@pytest.mark.parametrize(("language", "page"), PAGES)
def test_natural_paragraphs_keep_every_letter(tmp_path: Path, language: str, page: str, num_rows: int) -> None:
    said = as_page((WESTERN | OTHERS)[language], page)
    if page == "mac_roman" and language in ("is", "nl", "en"):
        pytest.skip("too few letters of a page that nobody writes any more")
    lines = [f'"Hello {number}?","{said}"\n' for number in range(num_rows)]
    (path := tmp_path / "a.csv").write_bytes(("question,answer\n" + "".join(lines)).encode(page))
    assert [row.values["answer"] for row in read_rows(path)] == [said] * num_rows
    assert open_source(path).why, "the guess is told"


def test_several_western_languages_in_one_file(tmp_path: Path) -> None:
    """French and Swedish have no letter in common that Slovak has not: no single language explains the file."""
    for names in (("fr", "sv"), ("en", "fr", "de", "es"), ("it", "da", "fi"), tuple(WESTERN)):
        text = "\n".join(WESTERN[name] for name in names)
        assert best_page(text.encode("cp1252")).name == "cp1252", names


@pytest.mark.parametrize("language", ["fr", "sv", "de", "es", "pt", "it", "da"])
def test_letters_without_small_words_are_western(language: str) -> None:
    """Names and single words: nothing but letters to go by."""
    words = [word for word in WESTERN[language].replace(".", " ").split() if not word.isascii()]
    assert best_page("\n".join(words * 3).encode("cp1252", "ignore")).name == "cp1252"


def test_a_sign_that_comes_again_in_every_row_does_not_outvote_the_text() -> None:
    """In cp1250 the pound sign is a letter of Polish."""
    rows = [f"You have won å£{number} and a prize of £{number}.50, call us now" for number in range(500)]
    assert best_page("\n".join(rows).encode("cp1252")).name == "cp1252"


def test_characters_written_as_two_surrogates_are_mended(tmp_path: Path) -> None:
    row = '{"question": "Größe \N{MUSICAL NOTE}?", "answer": "\N{GRINNING FACE} ja"}\n'
    raw = row.encode("utf-16", "surrogatepass").decode("utf-16").encode()
    for emoji in "\N{MUSICAL NOTE}\N{GRINNING FACE}":
        high, low = 0xD800 + (ord(emoji) - 0x10000 >> 10), 0xDC00 + (ord(emoji) & 0x3FF)
        raw = raw.replace(emoji.encode(), (chr(high) + chr(low)).encode("utf-8", "surrogatepass"))
    (path := tmp_path / "a.jsonl").write_bytes(raw * 300)
    source = open_source(path)
    assert "surrogates" in source.why
    found = [item for item in source.rows if isinstance(item, Row)]
    assert {item.values["answer"] for item in found} == {"\N{GRINNING FACE} ja"} and len(found) == 300
    with open_text(path, find_encoding(path)) as file:
        assert file.read() == row * 300
    # Wherever the text is cut while it is read, no pair breaks.
    draw = random.Random(0)
    for _ in range(200):
        decoder, at, said = codecs.getincrementaldecoder(cesu.NAME)("replace"), 0, ""
        while at < len(raw):
            step = draw.randint(1, 9)
            said, at = said + decoder.decode(raw[at : at + step], at + step >= len(raw)), at + step
        assert said == row


@pytest.mark.parametrize(
    ("said", "page", "head"),
    [
        ("Zażółć gęślą jaźń, łódź", "iso-8859-2", '<!DOCTYPE html>\n<html><head><meta charset="{}"></head>'),
        ("日本語のテキスト①", "cp932", '<html><head><META http-equiv=x content="text/html; charset=Shift_JIS"></head>'),
        ("Привет", "windows-1251", '<?xml version="1.0" encoding="{}"?><html>'),
        ("Καλημέρα", "windows-1253", "<html><head><title>Ein Titel</title><meta charset = '{}'/></head>"),
        ("“naïve” – 5 €", "cp1252", '<html><meta charset="ISO-8859-1">'),
    ],
)
def test_a_page_says_in_which_encoding_it_is(tmp_path: Path, said: str, page: str, head: str) -> None:
    (path := tmp_path / "a.html").write_bytes(f"{head.format(page)}<body><p>{said}</p></body></html>".encode(page))
    source = open_source(path)
    assert "as the page says" in source.why
    (row,) = source.rows
    assert isinstance(row, Row) and said in row.values["text"]


@pytest.mark.parametrize("told", ["utf-8", "nonsense-7", "utf-16", "shift_jis", "base64", "rot13", "idna"])
def test_a_page_that_says_what_it_is_not_is_guessed(tmp_path: Path, told: str) -> None:
    page = f'<html><meta charset="{told}"><p>{WESTERN["fr"]}</p></html>'.encode("cp1252")
    (path := tmp_path / "a.html").write_bytes(page)
    (row,) = read_rows(path)
    assert WESTERN["fr"] in row.values["text"]


def test_what_a_page_says_is_no_matter_where_it_is_utf_8(tmp_path: Path) -> None:
    (path := tmp_path / "a.html").write_bytes('<html><meta charset="iso-8859-1"><p>日本語</p>'.encode())
    (row,) = read_rows(path)
    assert row.values["text"] == "日本語"
