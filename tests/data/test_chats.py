"""Chat exports -> conversations: WhatsApp, Signal, Telegram, Instagram and ChatGPT as they write them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fledge.data.formats import read_records, taught_of
from fledge.data.sources import open_source
from fledge.errors import DataError
from fledge.records import Conversation


def read(path: Path, **options: Any) -> tuple[list[Conversation], str]:
    source = open_source(path)
    reading = read_records(source.rows, **options)
    return taught_of(reading, path), reading.why


def said(conversation: Conversation) -> list[tuple[str, str]]:
    return [(message.role, message.content) for message in conversation.messages]


STAMPS = {
    "android": "{d:02}/{m:02}/{y}, {h:02}:{n:02} - {who}: {text}",
    "ios": "\u200e[{d:02}.{m:02}.{y}, {h:02}:{n:02}:07] {who}: {text}",
    "american": "{m}/{d}/{y}, {h12}:{n:02}\u202f{half} - {who}: {text}",
    "signal": "[20{y}-{m:02}-{d:02}, {h:02}:{n:02}] {who}: {text}",
    "iso": "20{y}/{m:02}/{d:02}, {h:02}:{n:02} - {who}: {text}",
}
CHAT = [
    (3, 9, 0, "Ann", "Hello Bob: how are you?"),
    (3, 9, 1, "Bob", "Fine."),
    (3, 9, 2, "Bob", "And you?\nSecond line"),
    (3, 9, 5, "Ann", "<Media omitted>"),
    (5, 20, 0, "Bob", "Nobody asked for this."),
    (5, 20, 1, "Ann", "Are you there?"),
    (5, 20, 2, "Bob", "Yes."),
    (15, 20, 2, "Ann", "No answer to this"),
]


def export(style: str) -> str:
    lines = [
        STAMPS[style].format(d=d, m=1, y=24, h=h, n=n, h12=h % 12, half="AM" if h < 12 else "PM", who=who, text=text)
        for d, h, n, who, text in CHAT
    ]
    note = (
        STAMPS[style].format(d=1, m=1, y=24, h=8, n=0, h12=8, half="AM", who="You were added", text="").split(": ")[0]
    )
    return "\n".join([note, *lines]) + "\n"


@pytest.mark.parametrize("style", STAMPS)
def test_a_chat_is_cut_into_sessions_and_the_answers_of_one_are_taught(tmp_path: Path, style: str) -> None:
    (path := tmp_path / "chat.txt").write_text(export(style), encoding="utf-8")
    conversations, why = read(path)
    assert "'Bob'" in why
    assert [said(c) for c in conversations] == [
        [("user", "Hello Bob: how are you?"), ("assistant", "Fine.\nAnd you?\nSecond line")],
        [("user", "Are you there?"), ("assistant", "Yes.")],
    ]
    turned, _ = read(path, me="Ann")
    assert said(turned[0]) == [("user", "Nobody asked for this."), ("assistant", "Are you there?")]
    with pytest.raises(DataError, match="nobody in it is called 'Eve': "):
        read(path, me="Eve")


def test_several_others_are_told_apart(tmp_path: Path) -> None:
    lines = [
        f"01/01/24, 10:0{n} - {who}: {text}"
        for n, (who, text) in enumerate(
            [("Ann", "Who comes?"), ("Cid", "Not me."), ("Bob", "I do."), ("Ann", "Good."), ("Bob", "See you.")]
        )
    ]
    (path := tmp_path / "group.txt").write_text("\n".join(lines))
    (conversation,), _ = read(path, me="Bob")
    assert said(conversation)[0] == ("user", "Ann: Who comes?\nCid: Not me.")
    assert said(conversation)[1] == ("assistant", "I do.")


def test_telegram_and_instagram(tmp_path: Path) -> None:
    telegram = [
        {"type": "message", "date_unixtime": "1544006350", "from": "Ann", "text": "Look?"},
        {"type": "service", "date_unixtime": "1544006351", "actor": "Ann", "action": "pin", "text": ""},
        {
            "type": "message",
            "date_unixtime": "1544006364",
            "from": "Bob",
            "text": [{"type": "bold", "text": "Link:"}, {"type": "link", "text": "https://example.org/"}],
        },
    ]
    expected = [("user", "Look?"), ("assistant", "Link: https://example.org/")]
    for whole in ({"messages": telegram}, {"chats": {"list": [{"name": "x", "messages": telegram}]}}):
        (path := tmp_path / "result.json").write_text(json.dumps(whole))
        conversations, _ = read(path)
        assert [said(c) for c in conversations] == [expected]
    # Instagram writes the newest first, and UTF-8 byte by byte.
    instagram = [
        {"sender_name": "Bob", "timestamp_ms": 1577186590000, "content": "SchÃ¶n!"},
        {"sender_name": "Ann", "timestamp_ms": 1577186580000, "content": "Hello!"},
    ]
    (path := tmp_path / "message_1.json").write_text(
        json.dumps({"participants": [{"name": "Ann"}], "messages": instagram})
    )
    assert said(read(path)[0][0]) == [("user", "Hello!"), ("assistant", "Schön!")]


def test_a_table_of_messages_is_one_chat(tmp_path: Path) -> None:
    rows = [
        {"author": who, "timestamp": f"2024-01-01T10:0{n}:00", "message": text}
        for n, (who, text) in enumerate([("Ann", "Hi"), ("Bob", "Hello"), ("Bob", "there")])
    ]
    (path := tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert [said(c) for c in read(path)[0]] == [[("user", "Hi"), ("assistant", "Hello\nthere")]]


def node(name: str, parent: str | None, role: str, text: Any) -> dict[str, Any]:
    message = {"author": {"role": role}, "content": {"content_type": "text", "parts": [text]}} if role else None
    return {"id": name, "parent": parent, "message": message, "children": []}


def test_a_chatgpt_export_follows_the_branch_that_was_seen_last(tmp_path: Path) -> None:
    nodes = [
        node("root", None, "", ""),
        node("1", "root", "system", ""),
        node("2", "1", "user", "q"),
        node("3a", "2", "assistant", "first try"),
        node("3b", "2", "assistant", "second try"),
        node("4", "3b", "user", "and?"),
        node("5", "4", "tool", "searching"),
        node("6", "5", "assistant", "that."),
        node("7", "6", "user", "never answered"),
    ]
    chat = {"title": "t", "mapping": {n["id"]: n for n in nodes}, "current_node": "7"}
    (path := tmp_path / "conversations.json").write_text(json.dumps([chat]))
    (conversation,), _ = read(path)
    assert said(conversation) == [("user", "q"), ("assistant", "second try"), ("user", "and?"), ("assistant", "that.")]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("01/01/24, 10:00 - Ann: x\n01/01/24, 10:01 - Ann: y\n", "only one person writes"),
        ("01/01/24, 10:00 - You were added\n01/01/24, 10:01 - Ann left\n", "nobody says anything"),
    ],
)
def test_a_chat_without_answers_says_so(tmp_path: Path, text: str, words: str) -> None:
    (path := tmp_path / "chat.txt").write_text(text)
    with pytest.raises(DataError, match=words):
        read(path)
