"""Chat exports -> conversations: WhatsApp, Signal, Telegram, Instagram and ChatGPT as they write them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fledge.data.chat_notes import said_in
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


NOTES = """<Media omitted>
\u200eimage omitted
IMG-20231231-WA0001.jpg (file attached)
<attached: 00000012-PHOTO-2023-12-31.jpg>
\u200eplan.pdf \u2022 \u200e3 pages \u200edocument omitted
This message was deleted.
You deleted this message
Missed voice call
Missed group video call
Voice call, No answer
Waiting for this message. This may take a while.
Messages and calls are end-to-end encrypted. No one outside of this chat can read them.
null
<Medien ausgeschlossen>
Bild weggelassen
\u200eKontaktkarte ausgelassen
IMG.jpg (Datei angehängt)
Diese Nachricht wurde gelöscht.
Du hast diese Nachricht gelöscht.
Verpasster Sprachanruf
Nachrichten und Anrufe sind Ende-zu-Ende-verschlüsselt.
<Médias omis>
image absente
photo.jpg (fichier joint)
Ce message a été supprimé
Appel vocal manqué
<Multimedia omitido>
imagen omitida
nota.opus (archivo adjunto)
Se eliminó este mensaje.
Llamada de voz perdida
Videollamada perdida
<Media omessi>
immagine omessa
foto.jpg (file allegato)
Questo messaggio è stato eliminato
Chiamata vocale persa
<Mídia oculta>
imagem ocultada
foto.jpg (arquivo anexado)
Mensagem apagada
Esta mensagem foi apagada
Chamada de voz perdida
<Media weggelaten>
afbeelding weggelaten
foto.jpg (bestand bijgevoegd)
Dit bericht is verwijderd
Gemiste spraakoproep""".splitlines()


@pytest.mark.parametrize("note", NOTES)
def test_what_the_program_writes_is_nobodys_answer(tmp_path: Path, note: str) -> None:
    """In a message of its own, and above a caption."""
    lines = ["Ann: Hello", f"Bob: {note}", "Bob: Hi", "Ann: And?", f"Bob: {note}", "Ann: Well?", "Bob: Yes."]
    lines = [f"31/12/23, 21:{number:02} - {line}" for number, line in enumerate(lines)]
    (path := tmp_path / "chat.txt").write_text("\n".join(lines), encoding="utf-8")
    (conversation,), _ = read(path, me="Bob")
    assert said(conversation) == [
        ("user", "Hello"), ("assistant", "Hi"), ("user", "And?\nWell?"), ("assistant", "Yes."),
    ]  # fmt: skip


def test_what_people_say_of_pictures_and_calls_is_said() -> None:
    for text in (
        "I missed your voice call, sorry", "The image was omitted from the report", "<3", "Bild",
        "Ich habe das Bild weggelassen, ok?", "null and void", "Who deleted this message?", "see plan.pdf (attached)",
        "Your messages are not end-to-end", "Un mensaje perdido", "Video gesehen?",
    ):  # fmt: skip
        assert said_in(text) == text
    assert said_in("IMG-1.jpg (file attached)\nLook at this!") == "Look at this!"
    for marker in (
        "<This message was edited>",
        "\u200e<Diese Nachricht wurde bearbeitet.>",
        "<Se editó este mensaje.>",
    ):
        assert said_in(f"Hi there {marker}") == "Hi there"


def test_names_of_instagram_are_letters_too(tmp_path: Path) -> None:
    messages = [
        {"sender_name": "JÃ¼rgen", "timestamp_ms": 2000, "content": "SchÃ¶n!"},
        {"sender_name": "Ann", "timestamp_ms": 1000, "content": "Hello!"},
    ]
    (path := tmp_path / "message_1.json").write_text(json.dumps({"messages": messages}))
    (conversation,), why = read(path, me="Jürgen")
    assert said(conversation) == [("user", "Hello!"), ("assistant", "Schön!")]
    assert "'Jürgen'" in read(path)[1] and "'Jürgen'" in why


def test_hearts_and_attachments_of_instagram_are_not_said_by_anybody(tmp_path: Path) -> None:
    told = [
        ("Ann", "Hello!"),
        ("Ann", "Ann sent an attachment."),
        ("Bob", "Hi Ann."),
        ("Ann", "Liked a message"),
        ("Bob", "Reacted \u2764\ufe0f to your message "),
        ("Ann", "She sent an attachment."),
        ("Bob", "I liked a message."),
    ]
    messages = [
        {"sender_name": who, "timestamp_ms": 1000 * n, "content": text.encode().decode("latin-1")}
        for n, (who, text) in enumerate(told)
    ]
    (path := tmp_path / "message_1.json").write_text(json.dumps({"messages": messages}))
    (conversation,), _ = read(path, me="Bob")
    assert said(conversation) == [
        ("user", "Hello!"),
        ("assistant", "Hi Ann."),
        ("user", "She sent an attachment."),
        ("assistant", "I liked a message."),
    ]


def test_what_chatgpt_says_to_programs_is_no_reply(tmp_path: Path) -> None:
    nodes = [
        node("1", None, "user", "What is 6 * 7?"),
        node("2", "1", "assistant", "print(6 * 7)"),
        node("3", "2", "tool", "42"),
        node("4", "3", "assistant", "It is 42."),
        node("5", "4", "user", "profile"),
        node("6", "5", "user", "Thanks?"),
        node("7", "6", "assistant", "You are welcome."),
    ]
    nodes[1]["message"]["recipient"] = "python"
    nodes[3]["message"]["recipient"] = "all"
    nodes[4]["message"]["metadata"] = {"is_visually_hidden_from_conversation": True}
    chat = {"title": "t", "mapping": {n["id"]: n for n in nodes}, "current_node": "7"}
    (path := tmp_path / "conversations.json").write_text(json.dumps([chat]))
    (conversation,), _ = read(path)
    assert said(conversation) == [
        ("user", "What is 6 * 7?"), ("assistant", "It is 42."), ("user", "Thanks?"), ("assistant", "You are welcome."),
    ]  # fmt: skip


TURNS = [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
HEARD = [("system", "s"), ("user", "q"), ("assistant", "a")]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.json", json.dumps(TURNS)),
        ("a.json", json.dumps(TURNS, indent=2)),
        ("a.jsonl", json.dumps(TURNS) + "\n"),
        ("a.jsonl", "".join(json.dumps(turn) + "\n" for turn in TURNS)),
        ("a.yaml", json.dumps(TURNS)),
        ("a.csv", "role,content\nsystem,s\nuser,q\nassistant,a\n"),
        ("a.json", json.dumps([{"from": t["role"], "value": t["content"]} for t in TURNS])),
    ],
)
def test_a_bare_list_of_turns_is_one_conversation(tmp_path: Path, name: str, text: str) -> None:
    (path := tmp_path / name).write_text(text)
    (conversation,), _ = read(path)
    assert said(conversation) == HEARD


def test_turns_of_several_conversations_stand_apart_by_their_group(tmp_path: Path) -> None:
    rows = [{"conversation_id": n, **turn} for n in (7, 8) for turn in TURNS]
    (path := tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    conversations, _ = read(path)
    assert [said(c) for c in conversations] == [HEARD, HEARD]
    assert [c.group for c in conversations] == ["7", "8"]
    # Only questions, or only one side, are no conversation.
    (path := tmp_path / "b.jsonl").write_text('{"role": "user", "content": "x"}\n' * 3)
    assert read_records(open_source(path).rows).form == "text"
