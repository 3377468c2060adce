"""Words that carry no meaning of their own: two questions that differ only in these ask the same.

Per language: articles and demonstratives, particles, and the verbs that only carry a question. Not among them are
negations, prepositions, pronouns and question words: on is not off, who is not what. Words stand without accents, as
they are compared.
"""

from __future__ import annotations

import re

IDLE = {
    "en": "a an the this that these those do does can could would is are s just really actually exactly",
    "de": "der die das den dem des ein eine einen einem einer eines dieser diese dieses diesen diesem denn mal doch "
    "eigentlich wohl nun kann konnte koennte ist sind",
    "fr": "le la les l un une ce cet cette ces ne n donc puis peux peut pourrais est",
    "es": "el la los las un una unos unas este esta estos estas ese esa esos esas pues puedo podria es son",
    "it": "il lo la i gli le l un uno una questo questa questi queste dunque allora posso potrei e",
    "pt": "o a os as um uma uns umas este esta estes estas esse essa posso poderia e",
    "nl": "de het een deze dit die dat nou eens toch even kan is zijn",
    "sv": "en ett den det de denna detta kan ar",
    "da": "en et den det de denne dette kan er",
    "pl": "czy to ten ta",
    "cs": "ten ta to je",
}
# Other forms of one word.
SAME = {
    "en": {"whilst": "while", "amongst": "among", "cannot": "not", "im": "i am"},
    "de": dict.fromkeys(("keine", "keinen", "keinem", "keiner", "keines"), "kein"),
    "fr": {"du": "de", "des": "de", "d": "de", "au": "a", "aux": "a", "qu": "que", "j": "je"},
    "es": {"al": "a", "del": "de"},
    "it": {form: word for word, forms in (
        ("di", "del della dello dei degli delle dell d"), ("a", "al alla allo ai agli alle all"),
        ("in", "nel nella nello nei negli nelle nell"), ("da", "dal dalla dallo dai dagli dalle dall"),
    ) for form in forms.split()},
    "pt": {form: word for word, forms in (("de", "do da dos das"), ("em", "no na nos nas num numa"), ("a", "ao aos"))
           for form in forms.split()},
}  # fmt: skip
# In scripts of their own these need no language.
_ANYWHERE = "же ли бы это этот эта эти ж чи هل कृपया"
IDLE_ANYWHERE = frozenset(_ANYWHERE.split())
# Greetings and pleas, at the beginning and the end; and what only joins a question to what was said before it.
_POLITE = (
    "please kindly hi hello hey ok okay thanks bitte hallo danke svp stp bonjour salut merci hola gracias ciao salve "
    "grazie ola obrigado obrigada alstublieft hoi hej tack tak prosze prosim czesc lutfen пожалуйста здравствуйте "
    "привет спасибо 혹시"
)
_JOINING = "and so but well und aber also et alors y pero entonces en maar och а и ну і"
POLITE = frozenset(_POLITE.split())
LEADING = POLITE | frozenset(_JOINING.split())
# A word that is asked about is no plea: "the French word for please".
_ASKED = "for say says word of mean means write spell heisst sagt dire decir"
ASKED_ABOUT = frozenset(_ASKED.split())
# How a request begins, and phrases that stand anywhere; each phrase with what is in every text that has it.
_REQUEST = re.compile(
    r"\W*(?:(?:please|hi|hello|hey|bitte|hallo)\W+)*(?:(?:can|could|would|will) you(?: please| kindly)?"
    r"(?= (?:tell|explain|show)\b)|k[oö]nnen sie mir (?:bitte )?sagen|kannst du mir (?:bitte )?sagen"
    r"|good morning|guten tag|buenos d[ií]as|dzień dobry)\b"
)
_PHRASES = tuple((mark, re.compile(phrase)) for mark, phrase in (
    ("s'il ", r"\bs'il (?:vous|te) pla[iî]t\b"), ("est-ce", r"\best-ce qu(?:e\b|')"), ("favor", r"\bpor favor\b"),
    ("favore", r"\bper favore\b"), ("thank", r"\bthank you(?=\W*$)"), ("ласка", r"\bбудь ласка\b"),
    ("бы вы", r"\bмог(?:ли|ла) бы вы\b"), ("فضلك", r"من فضلك"),
))  # fmt: skip
# Scripts without blanks: what is said for politeness, and other ways of saying one thing.
_CHINESE = (("请问", ""), ("您好", ""), ("你好", ""), ("谢谢", ""), ("请", ""), ("您", "你"), ("如何", "怎么"),
            ("怎样", "怎么"), ("需要", "要"), ("哪儿", "哪里"))  # fmt: skip
_CHINESE_IDLE = re.compile(r"[的吗呢啊呀吧]")
_POLITE_END = re.compile(
    r"(?:(?<=[\u3040-\u30ff\u4e00-\u9fff])(?:(?:を?(?:教えて)(?:ください|下さい)?)|(?:の|ん)?(?:でしょうか|ですか)|ますか|でしょう|です|ます|か)"
    r"|(?<=[\uac00-\ud7af])(?:인가요|입니까|이에요|예요|나요|습니까)|(?<=[\u0e00-\u0e7f])(?:ครับ|ค่ะ|คะ|นะ)+)(?=[\s?？。.!！]*$)"
)


def without_phrases(text: str) -> str:
    """Return a folded text without how a request begins and without polite phrases."""
    if (found := _REQUEST.match(text)) is not None:
        text = text[found.end() :]
    for mark, phrase in _PHRASES:
        if mark in text:
            text = phrase.sub(" ", text)
    return text


def unspaced(text: str) -> str:
    """Return a text in a script without blanks with its politeness taken out."""
    text = _POLITE_END.sub("", text)
    if not re.search(r"[\u3040-\u30ff]", text):
        for said, short in _CHINESE:
            text = text.replace(said, short)
        text = _CHINESE_IDLE.sub("", text)
    return text
