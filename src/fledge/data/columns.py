"""What people call the columns of a row. Case, outer blanks and `_`, `-` or a blank inside do not matter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

# The more telling name comes first: a row with 'question' and 'input' asks its question.
QUESTION = (
    "question", "prompt", "instruction", "query", "user", "human", "input", "q", "problem", "utterance", "frage",
    "pregunta", "domanda", "vraag", "pytanie", "pergunta", "вопрос", "问题", "質問", "질문", "سؤال",
)  # fmt: skip
ANSWER = (
    "answer", "completion", "response", "output", "reply", "assistant", "bot", "gpt", "target", "a", "antwort",
    "réponse", "reponse", "respuesta", "risposta", "antwoord", "odpowiedź", "resposta", "ответ", "回答", "答案", "답변",
    "جواب",
)  # fmt: skip
SYSTEM = ("system", "system_prompt", "system_message")
HISTORY = ("history",)
TURNS = (
    "messages", "conversations", "conversation", "dialog", "dialogue", "turns", "chat", "utterances",
)  # fmt: skip
TOOLS = ("tools", "functions")
CHOSEN = ("chosen", "chosen_messages", "preferred", "accepted", "better", "winner", "answer_matching_behavior")
REJECTED = (
    "rejected", "rejected_messages", "dispreferred", "non_preferred", "worse", "loser",
    "answer_not_matching_behavior",
)  # fmt: skip
# Numbers in these are ratings, whatever else they may mean elsewhere.
RATING = ("rating", "user_rating", "stars", "vote", "feedback", "thumbs", "thumbs_up", "reward")
GOOD = ("kto_tag", "good", "is_good", "desirable", *RATING, "label", "verdict", "correct", "is_correct")
CHECKABLE = ("ground_truth", "solution", "expected", "reference", "reference_answer", "gold", "final_answer")
RANKED = ("responses", "completions", "answers", "candidates", "outputs", "generations")
RANKS = ("ranks", "rank", "ranking")
SCORES = ("scores", "score", "ratings", "rewards")
TEXT = ("text", "document", "body", "content", "passage", "sentence", "message", "sms", "review", "tweet")
CLASS = ("label", "category", "class", "intent", "sentiment", "topic", "tag", "emotion")
GROUP = ("group", "conversation_id", "dialog_id", "dialogue_id", "session_id", "thread_id")
TITLE = ("title", "heading", "name")

KNOWN = frozenset(
    name
    for names in (
        *(QUESTION, ANSWER, SYSTEM, HISTORY, TURNS, TOOLS, CHOSEN, REJECTED, GOOD, CHECKABLE, RANKED, RANKS, SCORES),
        *(TEXT, CLASS, GROUP, TITLE),
    )
    for name in names
    if len(name) > 1
)


def spelled(name: object) -> str:
    """Return a column's name as it is compared."""
    return "_".join(str(name).strip().lower().replace("-", " ").replace("_", " ").split())


def find(values: Mapping[str, Any], names: Sequence[str]) -> str | None:
    """Return the row's own spelling of the first of `names` that it has."""
    for name in names:
        if name in values:
            return name
    return _find_spelled(tuple(values), tuple(names))


@lru_cache(maxsize=1024)
def _find_spelled(keys: tuple[str, ...], names: tuple[str, ...]) -> str | None:
    # The rows of a file have the same few sets of columns.
    own = {spelled(key): key for key in keys}
    return next((own[name] for name in names if name in own), None)
