"""Real data that nobody wrote for fledge: every file reads with the rows that its source names, or says why not."""

from __future__ import annotations

from pathlib import Path

import pytest

from fledge.data.formats import read_records
from fledge.data.sources import Source, open_source
from fledge.errors import DataError, Finding
from fledge.records import Conversation

FIELD = Path(__file__).parents[2].parent / "shared" / "data"
pytestmark = pytest.mark.skipif(not FIELD.is_dir(), reason="the field data are not on this machine")

# file, form, records, rows that say what is wrong with them
READ = [
    *((f"anthropic_persona/{name}.jsonl", "preference", 1000, 0)
      for name in ("agreeableness", "conscientiousness", "openness", "interest-in-music", "interest-in-science",
                   "risk-averse")),
    ("bible_styles/derived_archaic_pairs_3000.jsonl", "question_answer", 3000, 0),
    ("gsm8k/train.jsonl", "question_answer", 7473, 0),
    ("gsm8k/test.jsonl", "question_answer", 1319, 0),
    ("llamafactory_demos/identity.json", "question_answer", 91, 0),
    ("llamafactory_demos/alpaca_en_demo.json", "question_answer", 999, 0),
    ("llamafactory_demos/alpaca_zh_demo.json", "question_answer", 1000, 0),
    ("llamafactory_demos/dpo_en_demo.json", "preference", 300, 0),
    ("llamafactory_demos/kto_en_demo.json", "judged", 300, 0),
    ("llamafactory_demos/glaive_toolcall_en_demo.json", "messages", 300, 0),
    ("llamafactory_demos/v1_sft_demo.jsonl", "messages", 500, 0),
    ("llamafactory_demos/v1_dpo_demo.jsonl", "preference", 10, 0),
    ("llamafactory_demos/reason_tool_use_demo_50.jsonl", "messages", 50, 0),
    ("llamafactory_demos/c4_demo.jsonl", "text", 300, 0),
    ("llamafactory_demos/wiki_demo.txt", "text", 30, 0),
    ("messy_chat_fixtures/axolotl/conversation.json", "messages", 1, 0),
    ("messy_chat_fixtures/axolotl/conversation.missingturns.json", "messages", 0, 1),
    ("messy_chat_fixtures/axolotl/alpaca.json", "question_answer", 2, 0),
    ("messy_chat_fixtures/exports/instagram_test_export.json", "chat_export", 1, 0),
    ("messy_chat_fixtures/exports/signal_test_export.txt", "chat_export", 1, 0),
    ("messy_chat_fixtures/exports/telegram_test_batch_export.json", "chat_export", 1, 0),
    ("messy_chat_fixtures/exports/telegram_test_single_export.json", "chat_export", 1, 0),
    *((f"messy_chat_fixtures/exports/whatsapp_test_{name}.txt", "chat_export", 1, 0)
      for name in ("[mmddyy]_24hrs", "ddmmyy_24hrs", "mmddyy_24hrs", "mmddyyyy_12hrs", "yyyymmdd_24hrs")),
    *((f"messy_chat_fixtures/oumi/{name}", form, 2, 0)
      for name, form in (("oumi_format.json", "messages"), ("oumi_format.jsonl", "messages"),
                         ("alpaca_format.json", "question_answer"), ("alpaca_format.jsonl", "question_answer"))),
    ("mlx_superbowl/train.jsonl", "prompt_completion", 1800, 0),
    ("mlx_superbowl/valid.jsonl", "prompt_completion", 144, 0),
    ("oasst_en_100/derived_pairs.jsonl", "preference", 207, 0),
    ("oasst_en_100/derived_best_path.jsonl", "messages", 95, 0),
    ("openai_cookbook_chat/toy_chat_fine_tuning.jsonl", "messages", 5, 0),
    ("python_faq/python_faq.jsonl", "question_answer", 175, 0),
    ("self_instruct_human/seed_tasks.jsonl", "instances", 175, 0),
    ("self_instruct_human/user_oriented_instructions.jsonl", "instances", 252, 0),
    ("sms_spam/SMSSpamCollection.tsv", "classes", 5574, 0),
    ("sms_spam/spam_kaggle_latin1.csv", "classes", 5572, 0),
    *((f"snips_nlu/{kind}_{name}.json", "segments", count, 0) for kind, count in (("train", 300), ("validate", 100))
      for name in ("AddToPlaylist", "BookRestaurant", "GetWeather", "PlayMusic", "RateBook", "SearchCreativeWork",
                   "SearchScreeningEvent")),
    ("snips_nlu/train_PlayMusic_full.latin1.json", "segments", 2000, 0),
    # Two of 210 conversations end with a question; calls without a name cannot be read.
    ("taskmaster4_coffee/data_07.json", "messages", 208, 2),
    ("taskmaster4_coffee/derived_messages.jsonl", "messages", 208, 2),
    ("taskmaster4_coffee/reward_01.json", "judged", 497, 3),
    ("taskmaster4_coffee/reward_06.json", "judged", 216, 12),
    ("tinyshakespeare/input.txt", "text", 1, 0),
]  # fmt: skip


@pytest.mark.parametrize(("name", "form", "num_records", "num_findings"), READ)
def test_real_files_read_right(name: str, form: str, num_records: int, num_findings: int) -> None:
    source = open_source(FIELD / name)
    reading = read_records(source.rows)
    found = list(reading.records)
    findings = [item for item in found if isinstance(item, Finding)]
    assert (reading.form, len(found) - len(findings), len(findings)) == (form, num_records, num_findings), findings[:3]
    assert all(finding.where and finding.message and finding.remedy for finding in findings)


def test_every_task_of_bbh() -> None:
    counts = {path.stem: len(list(read_records(open_source(path).rows).records)) for path in FIELD.glob("bbh/*.json")}
    odd = {"causal_judgement": 187, "penguins_in_a_table": 146, "snarks": 178}
    assert len(counts) == 27
    assert counts == {name: odd.get(name, 250) for name in counts}


def test_a_tree_of_replies_gives_at_least_the_pairs_that_were_derived_from_it() -> None:
    pairs = list(read_records(open_source(FIELD / "oasst_en_100/en_100_tree.jsonl").rows).records)
    assert len(pairs) > 207
    assert not [item for item in pairs if isinstance(item, Finding)]


@pytest.mark.parametrize("folder", ["python_docs", "python_faq/rst"])
def test_real_documents_have_no_machinery_left(folder: str) -> None:
    files = sorted((FIELD / folder).rglob("*.rst"))
    assert len(files) in (101, 8)
    for path in files:
        (record,) = read_records(open_source(path).rows).records
        text = getattr(record, "text", "")
        assert text.startswith("#") or "\n# " in text or "\n## " in text, path
        assert not [line for line in text.split("\n") if line.startswith((".. index", ".. _"))], path


@pytest.mark.parametrize("path", sorted(FIELD.glob("messy_encodings/*.txt")), ids=lambda path: path.stem)
def test_real_encodings_give_letters(path: Path) -> None:
    (record,) = read_records(open_source(path).rows).records
    text = getattr(record, "text", "")
    assert "\ufffd" not in text
    letters = sum(character.isalpha() for character in text)
    assert letters > 0.45 * len(text)


def test_real_old_encodings_give_the_letters_that_people_wrote() -> None:
    """Once read in cp1250 and cp775, as many rows as ever: what a pound sign or a note had become nobody saw."""

    def asked(source: Source) -> list[str]:
        return [one.messages[0].content for one in read_records(source.rows).records if isinstance(one, Conversation)]

    path = FIELD / "sms_spam/spam_kaggle_latin1.csv"
    text = "\n".join(asked(open_source(path)))
    # One stands in a cell beyond the text.
    assert text.count("£") == path.read_bytes().count(b"\xa3") - 1 == 328
    assert not set(text) & set("ŁĺČęŕ")
    music = open_source(FIELD / "snips_nlu/train_PlayMusic_full.latin1.json")
    said = asked(music)
    assert "surrogates" in music.why
    assert "I want toi hear some Pop Punk Perfection \N{SLICE OF PIZZA} off of Deezer" in said
    assert "Play the album Remember Shakti – The Believer." in said
    assert "Play Burhøns by Ernie C." in said


HEARD = {
    "arabic-1": "الجزائر", "chinese": "維基", "french-1": "écrivains", "greek": "γλώσσα", "hebrew-2": "בתחביר",
    "korean": "예수", "russian": "мышлению", "turkish": "sırada",
}  # fmt: skip


@pytest.mark.parametrize("name", HEARD)
def test_real_encodings_give_words(name: str) -> None:
    (record,) = read_records(open_source(FIELD / f"messy_encodings/sample-{name}.txt").rows).records
    assert HEARD[name] in getattr(record, "text", "")


@pytest.mark.parametrize("path", sorted(FIELD.glob("messy_csvkit/*")), ids=lambda path: path.name)
def test_tables_of_numbers_and_broken_ones_say_in_one_line_what_they_are(path: Path) -> None:
    try:
        reading = read_records(open_source(path).rows)
        told = [str(item) for item in reading.records if isinstance(item, Finding)]
    except DataError as error:
        told = [str(error)]
    assert all("\n" not in line and len(line) < 600 for line in told)
