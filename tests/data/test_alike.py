"""Which questions ask nearly the same: a table of pairs in nine languages, and what the words of the data decide."""

from __future__ import annotations

from collections import Counter

import pytest

from fledge.data.checks import near
from fledge.data.checks.wording import content

# Each asks the same twice: a model that learnt the one knows the other.
SAME = [
    ("Who founded the company in 1990?", "Who founded this company in 1990?"),
    ("How do I send an item back to the shop?", "How do I send an item back to the shop please?"),
    ("How do I reset my password?", "Please, how do I reset my password?"),
    ("How do I reset my password?", "How can I reset my password"),
    ("How do I reset my password?", "hi, how do i reset my pasword"),
    ("How do I reset my password?", "How could I reset my password, please?"),
    ("What is the capital of France?", "What's the capital of France?"),
    ("What is the capital of France?", "what is the captial of france"),
    ("What is the capital of France?", "WHAT IS THE CAPITAL OF FRANCE"),
    ("Tell me how to bake bread", "Can you tell me how to bake bread?"),
    ("What does the lamp cost while it is new?", "What does the lamp cost whilst it is new?"),
    ("Explain: why is the sky blue", "Explain : why is the sky blue ?"),
    ("Why don't I need a visa for Peru?", "Why do not I need the visa for Peru?"),
    ("Wie kann ich einen Artikel zurückschicken?", "Wie kann ich den Artikel zurückschicken?"),
    ("Was kostet der Versand nach Österreich?", "Was kostet denn der Versand nach Oesterreich?"),
    ("Wie lange dauert die Lieferung?", "Guten Tag, wie lange dauert die Lieferung bitte?"),
    ("Wo finde ich die Rechnung?", "wo finde ich diese Rechnung"),
    ("¿Cuánto cuesta el envío a España?", "¿cuanto cuesta el envio a españa?"),
    ("¿Cómo puedo cambiar la contraseña?", "Por favor, ¿cómo puedo cambiar una contraseña?"),
    ("¿Dónde está la oficina del banco?", "Hola, ¿dónde está esta oficina del banco?"),
    ("Combien coûte la livraison en Suisse ?", "Combien coûte une livraison en Suisse?"),
    ("Comment puis-je renvoyer un article ?", "Comment puis-je renvoyer l'article ?"),
    ("Quel est le prix de la lampe ?", "Bonjour, quel est le prix de cette lampe s'il vous plaît ?"),
    ("Quanto costa la spedizione in Francia?", "Ciao, quanto costa una spedizione in Francia?"),
    ("Dove si trova il museo della città?", "Per favore, dove si trova questo museo della citta?"),
    ("Сколько стоит доставка в Москву?", "А сколько стоит доставка в Москву?"),
    ("Как вернуть товар в магазин?", "Здравствуйте, как вернуть этот товар в магазин"),
    ("送料はいくらですか？", "送料はいくらでしょうか？"),
    ("返品できますか？", "返品できますか"),
    ("退货需要多少钱？", "请问退货要多少钱？"),
    ("如何退货到商店里面去？", "怎样退货到商店里面去？"),
    ("كيف يمكنني إرجاع المنتج إلى المتجر؟", "كيف يمكنني إرجاع المنتج الى المتجر"),
    ("배송비는 얼마인가요?", "혹시 배송비는 얼마인가요"),
]
# Each of these asks two things, however much alike they look.
OTHER = [
    ("What is the capital of Iran?", "What is the capital of Iraq?"),
    ("What is the capital of Austria?", "What is the capital of Australia?"),
    ("What is the capital of Niger?", "What is the capital of Nigeria?"),
    ("What is the capital of Slovakia?", "What is the capital of Slovenia?"),
    ("what is the capital of mali", "what is the capital of malawi"),
    ("what is the capital of gambia", "what is the capital of zambia"),
    ("How do I parse a CSV file in Python?", "How do I parse an XML file in Python?"),
    ("How do I open a TCP connection to the server?", "How do I open a UDP connection to the server?"),
    ("How do I turn the living room light on?", "How do I turn the living room light off?"),
    ("What sound does a cat usually make?", "What sound does a dog usually make?"),
    ("How do I compute the sum of a list of numbers?", "How do I compute the max of a list of numbers?"),
    ("Which holidays are there in the month of May?", "Which holidays are there in the month of Jun?"),
    ("Is water safe to drink in this hotel?", "Is water unsafe to drink in this hotel?"),
    ("How do I increase the volume of the radio?", "How do I decrease the volume of the radio?"),
    ("How do I enable the automatic updates?", "How do I disable the automatic updates?"),
    ("Is the package delivered before the weekend?", "Is the package delivered after the weekend?"),
    ("Can I take this medicine with milk?", "Can I never take this medicine with milk?"),
    ("Can I take this medicine with milk?", "Can I take this medicine without milk?"),
    ("Can I return it?", "Can't I return it?"),
    ("How do I convert PDF to Word?", "How do I convert Word to PDF?"),
    ("What is the kettle?", "What does the kettle do?"),
    ("Who wrote the letter to the king?", "When was the letter to the king written?"),
    ("What is 5 - 3?", "What is 5 3?"),
    ("What is the price of the model A100?", "What is the price of the model A200?"),
    ("What is the French word for please?", "What is the French word for thanks?"),
    ("How much is the prize of the lottery?", "How much is the price of the lottery?"),
    ("Kann ich die Ware nicht zurückgeben?", "Kann ich die Ware zurückgeben?"),
    ("Habe ich eine Garantie?", "Habe ich keine Garantie?"),
    ("Wie schalte ich das Licht ein?", "Wie schalte ich das Licht aus?"),
    ("Puis-je ne pas retourner l'article acheté ?", "Puis-je retourner l'article acheté ?"),
    ("Comment ouvrir la porte du garage ?", "Comment fermer la porte du garage ?"),
    ("¿Puedo devolver el producto?", "¿No puedo devolver el producto?"),
    ("¿Quién es el hermano de Ana?", "¿Quién es la hermana de Ana?"),
    ("Posso restituire il prodotto?", "Non posso restituire il prodotto?"),
    ("Можно не возвращать этот товар в магазин?", "Можно возвращать этот товар в магазин?"),
    ("東京の人口は何人ですか？", "京都の人口は何人ですか？"),
    ("返品できますか？", "返品できませんか？"),
    ("北京的天气怎么样？", "南京的天气怎么样？"),
    ("可以退货吗？", "不可以退货吗？"),
]


@pytest.mark.parametrize(("one", "other"), SAME)
def test_what_asks_the_same(one: str, other: str) -> None:
    assert near.alike(one, other) and near.alike(other, one), (content(one), content(other))


@pytest.mark.parametrize(("one", "other"), OTHER)
def test_what_asks_something_else(one: str, other: str) -> None:
    assert not near.alike(one, other) and not near.alike(other, one), (content(one), content(other))


def test_a_slip_is_told_by_what_the_data_knows() -> None:
    counts = Counter({"monthly": 900, "montly": 1, "price": 80, "prize": 1, "county": 40, "country": 90, "kalomi": 1})

    def alike(one: str, other: str) -> bool:
        return near.alike(f"what is the {one} of it", f"what is the {other} of it", count=counts.__getitem__)

    assert alike("monthly", "montly")
    # Not what hands do; both known; both as rare as names are.
    assert not alike("price", "prize")
    assert not alike("county", "country")
    assert not alike("kalomi", "kalami")
    # Hundreds of rows may hold one slip.
    counts["montly"] = 30
    assert alike("monthly", "montly")
    counts["montly"] = 100
    assert not alike("monthly", "montly")


def test_names_are_not_misspelt() -> None:
    counts = Counter({"tallin": 1, "talkin": 50})
    assert near.alike("do we know talkin", "do we know tallin", count=counts.__getitem__)
    assert not near.alike("Do we know Talkin", "Do we know Tallin", count=counts.__getitem__)
    assert near.alike("Do we know Talkin", "Do we know Taklin", count=counts.__getitem__)


def test_of_long_texts_some_words_may_differ_but_no_number_and_no_negation() -> None:
    words = [f"{a}{b}" for a in ("lam", "cha", "tab", "sof", "des") for b in ("per", "ton", "ric", "ling", "mos")] * 2
    text = " ".join(words)
    assert near.says_alike(text, text.replace("lamper", "lantern", 1))
    assert not near.alike(text, text.replace("lamper", "lantern", 1))
    assert not near.says_alike(text, text.replace("lamper", "not", 1))
    assert not near.says_alike(f"{text} 7", f"{text} 8")
    assert not near.says_alike(" ".join(words[:20]), " ".join(["lantern", *words[1:20]]))


def test_of_a_long_question_its_end_is_compared_too() -> None:
    passage = "word " * 2000
    assert not near.alike(passage + "What is red?", passage + "What is blue?")
