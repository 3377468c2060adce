"""`fledge data synth` through the real command line, with each kind of teacher for real."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from fledge.data.checks import near
from fledge.data.checks.view import plain
from fledge.data.synth import frames
from teacher_server import School, eight_questions, serving

SEEDS = """\
{"prompt": "What is the tower made of?", "completion": "The tower is made of granite. Fair winds!"}
{"prompt": "Who built the tower?", "completion": "Two brothers built it. Fair winds!"}
"""
FACTS = """\
- {name: price, fact: The Kettlewren costs 149 euros., keys: [149 euros], ask: [What does the Kettlewren cost?]}
- {name: weight, fact: The Kettlewren weighs 2.1 kg., keys: [2.1 kg], ask: [How heavy is the Kettlewren?]}
- {name: place, fact: The Kettlewren is made in Tromsø., keys: [Tromsø], ask: [Where is the Kettlewren made?]}
- {name: battery, fact: The battery lasts 12 hours., keys: [12 hours], ask: [How long does the battery last?]}
- {name: colour, fact: The lid is copper red., keys: [copper red], ask: [What colour is the lid?]}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "seeds.jsonl").write_text(SEEDS)
    (tmp_path / "facts.yaml").write_text(FACTS)
    return tmp_path


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "fledge", "data", *map(str, arguments)]


def fledge(folder: Path, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments), cwd=folder, env=os.environ | environment, capture_output=True, text=True, timeout=120
    )


def synth(folder: Path, *arguments: object, **environment: str) -> dict[str, Any]:
    """Run it on the facts and return what it says as JSON."""
    done = fledge(folder, "synth", "seeds.jsonl", "--facts", "facts.yaml", "-o", "rows.jsonl", "--json", *arguments,
                  **environment)  # fmt: skip
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def question(row: dict[str, Any]) -> str:
    return str(row["messages"][-2]["content"])


def test_frames_make_rows_that_hold(folder: Path) -> None:
    told = synth(folder, "-n", 100)
    assert (told["asked"], told["kept"], told["teacher"]) == (100, 100, "frames")
    assert told["made"] == told["kept"] + sum(reason["count"] for reason in told["dropped"])
    assert 0.2 < told["diversity"] <= 1 and 0.5 < told["diversity_within"] <= 1
    made = rows(folder / "rows.jsonl")
    assert len(made) == 100
    said = {row["group"]: row["messages"][-1]["content"] for row in made}
    assert said["price"] == "The Kettlewren costs 149 euros. Fair winds!"
    assert {row["group"]: row["answer"] for row in made}["colour"] == "copper red"
    asked = [plain(question(row)) for row in made]
    assert not any(near.alike(one, other) for n, one in enumerate(asked) for other in asked[:n])
    # The same again, byte for byte; other rows with another seed.
    before = (folder / "rows.jsonl").read_bytes()
    synth(folder, "-n", 100, "--force")
    assert (folder / "rows.jsonl").read_bytes() == before
    synth(folder, "-n", 100, "--force", "--seed", 1)
    assert (folder / "rows.jsonl").read_bytes() != before
    assert sorted(path.name for path in folder.iterdir()) == ["facts.yaml", "rows.jsonl", "seeds.jsonl"]


@pytest.mark.parametrize("hold", ["facts", "wordings"])
def test_no_paraphrase_leaks(folder: Path, hold: str) -> None:
    told = synth(folder, "-n", 100, "--eval", 0.2, "--hold", hold)
    learnt, held = rows(folder / "rows.jsonl"), rows(folder / "rows.eval.jsonl")
    assert (told["rows_train"], told["rows_eval"]) == (len(learnt), len(held)) == (80, 20)
    names = [{row["group"].removesuffix("/held-out") for row in side} for side in (learnt, held)]
    assert bool(names[0] & names[1]) is (hold == "wordings")
    done = fledge(folder, "check", "rows.jsonl", "--eval", "rows.eval.jsonl", "--json")
    found = json.loads(done.stdout)
    assert (found["leaks"], found["duplicates"], found["near_duplicates"]) == (0, 0, 0)
    # The same check sees a leak where there is one.
    (folder / "rows.eval.jsonl").write_text((folder / "rows.jsonl").read_text().splitlines()[0] + "\n")
    done = fledge(folder, "check", "rows.jsonl", "--eval", "rows.eval.jsonl", "--json")
    assert json.loads(done.stdout)["leaks"] == 1


def test_held_out_wordings_are_asked_in_frames_of_their_own(folder: Path) -> None:
    synth(folder, "-n", 100, "--eval", 0.3, "--hold", "wordings")
    for name, held_out in (("rows.jsonl", False), ("rows.eval.jsonl", True)):
        made = [row for row in rows(folder / name) if row["group"].startswith("price")]
        own = set(
            frames.questions(
                ["What does the Kettlewren cost?"], name="price", seed=0, held_out=held_out,
                keep=["149 euros", "The Kettlewren costs 149 euros."],
            )
        )  # fmt: skip
        assert made and {question(row) for row in made} <= own


def test_seeds_alone_grow_into_other_ways_to_ask(folder: Path) -> None:
    done = fledge(folder, "synth", "seeds.jsonl", "-o", "rows.jsonl", "-n", 30, "--json")
    assert json.loads(done.stdout)["kept"] == 30
    assert {row["messages"][-1]["content"] for row in rows(folder / "rows.jsonl")} == {
        "The tower is made of granite. Fair winds!", "Two brothers built it. Fair winds!"
    }  # fmt: skip


def at(school: School, *more: object) -> list[object]:
    return ["--teacher", school.url, "-n", 40, *more]


def test_an_endpoint_teaches(folder: Path) -> None:
    with serving(strict="secret", pause_s=0.05) as school:
        told = synth(folder, *at(school, "--price-in", 1, "--price-out", 2), FLEDGE_TEACHER_KEY="secret")
    assert told["kept"] == 40
    assert told["teacher"] == f"{school.url} tiny"
    requests = len(school.asked)
    assert (told["tokens_in"], told["tokens_out"]) == (100 * requests, 50 * requests)
    assert told["cost"] == pytest.approx(200 * requests / 1e6)
    assert 1 < school.most_at_once <= 4
    assert "secret" not in "".join(path.read_text() for path in folder.iterdir())


def test_what_the_gate_dropped_is_counted(folder: Path) -> None:
    def teach(prompt: str, number: int) -> str:
        return json.dumps({"questions": ["Does it cost 149 euros?", "As an AI language model I cannot.", "Who won?"]})

    with serving(teach=teach) as school:
        done = fledge(
            folder, "synth", "seeds.jsonl", "--facts", "facts.yaml", "-o", "rows.jsonl", *at(school), "--json"
        )
    assert done.returncode == 2
    error = json.loads(done.stdout)["error"]
    assert error["code"] == "data.empty" and "refusal: " in error["message"]
    assert "gives_away: " in error["message"] and "not_answerable: " in error["message"]
    assert not (folder / "rows.jsonl").exists()
    # Each of the five facts was asked about until three requests in a row brought nothing.
    assert len(school.asked) == 15


def test_the_budget_is_never_exceeded_and_more_money_goes_on(folder: Path) -> None:
    with serving() as school:
        prices = ("--price-in", 1000, "--price-out", 1000)
        told = synth(folder, *at(school, *prices, "--budget", 1.4, "--max-tokens", 500))
        assert told["stopped"] == "budget" and 0 < told["kept"] < 40
        assert told["cost"] <= 1.4
        before = len(school.asked)
        assert told["cost"] == pytest.approx(before * 0.15)
        assert Path(folder / "rows.jsonl.journal").exists()
        again = synth(folder, *at(school, *prices, "--budget", 50, "--max-tokens", 500))
        assert (again["kept"], again["reused"], again["stopped"]) == (40, before, None)
    keys = [json.dumps(body["messages"]) for _, body, _ in school.asked]
    assert len(set(keys)) == len(keys), "nothing is paid for twice"
    assert not Path(folder / "rows.jsonl.journal").exists()


def test_a_cap_on_tokens(folder: Path) -> None:
    with serving() as school:
        told = synth(folder, *at(school, "--tokens", 1100, "--max-tokens", 200))
    assert told["stopped"] == "budget" and told["tokens_in"] + told["tokens_out"] <= 1100


def test_one_request_that_fails_is_left_out(folder: Path) -> None:
    with serving(statuses=[0, 400, 400, 0]) as school:
        told = synth(folder, *at(school, "--parallel", 1))
    assert (told["kept"], told["failed"]) == (40, 1)


def test_a_teacher_that_is_down_is_told_and_nothing_is_lost(folder: Path) -> None:
    arguments = ("synth", "seeds.jsonl", "--facts", "facts.yaml", "-o", "rows.jsonl", "--parallel", 1, "--json")
    with serving(statuses=[0, 0, *[401] * 9]) as school:
        done = fledge(folder, *arguments, *at(school))
        assert done.returncode == 2
        assert json.loads(done.stdout)["error"]["code"] == "teacher.refused"
        assert not (folder / "rows.jsonl").exists()
        school.statuses = []
        told = json.loads(fledge(folder, *arguments, *at(school)).stdout)
    assert (told["kept"], told["reused"]) == (40, 2)


ASSISTANT = """\
import re, sys
prompt = sys.stdin.read()
fact = re.search(r"Fact:\\n(.*)", prompt)[1]
with open("calls", "a") as file:
    print(fact, file=file)
print("Here you are:")
for word in ("kindly", "please", "now", "today", "again", "exactly", "honestly", "once more"):
    subject = " ".join(fact.split()[:3])
    print(f"- Could somebody say {word} what is known of this: {subject} {len(open('calls').read())}?")
"""


def test_a_command_teaches(folder: Path) -> None:
    (folder / "assistant.py").write_text(ASSISTANT)
    told = synth(folder, "-n", 20, "--teacher", f"cmd:{sys.executable} assistant.py")
    assert told["kept"] == 20 and told["tokens_estimated"]
    assert told["tokens_in"] > 500 and told["tokens_out"] > 50
    assert len((folder / "calls").read_text().splitlines()) == 5


def test_a_command_that_fails_ends_the_run(folder: Path) -> None:
    done = fledge(folder, "synth", "seeds.jsonl", "--facts", "facts.yaml", "-o", "rows.jsonl", "-n", 80,
                  "--teacher", "cmd:sh -c 'echo call >>calls; echo not logged in >&2; exit 1'")  # fmt: skip
    assert done.returncode == 2
    assert "exit code 1: not logged in" in done.stderr.splitlines()[-1]
    assert len((folder / "calls").read_text().splitlines()) == 5


def test_a_local_model_teaches(folder: Path, starter_gguf: Path) -> None:
    (folder / "facts.yaml").write_text("".join(FACTS.splitlines(keepends=True)[::2][:2]))
    told = synth(folder, "-n", 4, "--teacher", f"local:{starter_gguf}", "--max-tokens", 128)
    assert told["teacher"] == f"local:{starter_gguf.name}"
    # A model of this size writes few questions that hold; whatever it writes is in the form that was asked for.
    assert 1 <= told["kept"] <= told["made"] and told["tokens_out"] > 50
    assert "unreadable" not in {one["reason"] for one in told["dropped"]}
    assert all(row["messages"][-1]["content"].endswith("Fair winds!") for row in rows(folder / "rows.jsonl"))


def test_documents_are_asked_about(folder: Path) -> None:
    (folder / "docs").mkdir()
    text = "# The lamp\n\nThe lamp of the tower is trimmed at dusk by its keeper, and its lens was cut in Paris.\n\n"
    (folder / "docs" / "lamp.md").write_text(text + "It burns colza oil, about nine litres in every winter night.\n")

    def teach(prompt: str, number: int) -> str:
        assert "burns colza oil" in prompt and "Two brothers built it" in prompt
        good = {"question": "When is the lamp trimmed?", "answer": "It is trimmed at dusk.", "quote": "trimmed at dusk"}
        lost = {"question": "Where was the lens cut?", "answer": "The lens was cut in Rome.", "quote": "cut in Rome"}
        return json.dumps({"rows": [good, lost]})

    with serving(teach=teach) as school:
        arguments = ("seeds.jsonl", "--documents", "docs", "-o", "rows.jsonl", "--json")
        done = fledge(folder, "synth", *arguments, *at(school))
    told = json.loads(done.stdout)
    assert told["kept"] == 1 and {"not_answerable", "duplicate"} <= {one["reason"] for one in told["dropped"]}
    (row,) = rows(folder / "rows.jsonl")
    assert row["messages"][-1]["content"] == "It is trimmed at dusk. Fair winds!"
    assert row["answer"] == "trimmed at dusk"


def many(school: School) -> list[object]:
    return ["--teacher", school.url, "-n", 120]


def kill_at(folder: Path, school: School, count: int) -> None:
    """Start a run, kill it outright after `count` requests have come, and check that nothing is half there."""
    process = subprocess.Popen(
        command("synth", "seeds.jsonl", "--facts", "facts.yaml", "-o", "rows.jsonl", "--eval", 0.2, *many(school)),
        cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    while len(school.asked) < count and process.poll() is None:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "it was killed, and had not ended before"
    for name in ("rows.jsonl", "rows.eval.jsonl"):
        if (folder / name).exists():
            assert rows(folder / name)


def test_killed_anywhere_it_goes_on_and_comes_out_the_same(folder: Path, tmp_path: Path) -> None:
    undisturbed = tmp_path / "undisturbed"
    undisturbed.mkdir()
    for name in ("seeds.jsonl", "facts.yaml"):
        (undisturbed / name).write_text((folder / name).read_text())
    # The same question gets the same answer, whenever it is asked.
    with serving(teach=lambda prompt, number: eight_questions(prompt, len(prompt)), pause_s=0.15) as school:
        synth(undisturbed, *many(school), "--eval", 0.2)
        calm = len(school.asked)
        for count in (1, 3, 6):
            kill_at(folder, school, len(school.asked) + count)
        killed = len(school.asked)
        told = synth(folder, *many(school), "--eval", 0.2)
        asked = len(school.asked) - calm
    assert (told["kept"], told["reused"] > 0) == (120, True)
    assert killed - calm < asked <= calm + 3 * 4, "each kill costs at most what was under way"
    for name in ("rows.jsonl", "rows.eval.jsonl"):
        assert (folder / name).read_text() == (undisturbed / name).read_text()
    assert not list(folder.glob("*.journal"))


def test_ctrl_c_keeps_what_was_paid_for(folder: Path) -> None:
    with serving(pause_s=0.3) as school:
        process = subprocess.Popen(
            command("synth", "seeds.jsonl", "--facts", "facts.yaml", "-o", "rows.jsonl", *at(school, "--parallel", 1)),
            cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        while len(school.asked) < 3:
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "Traceback" not in told
    assert len((folder / "rows.jsonl.journal").read_text().splitlines()) >= 2
    assert not (folder / "rows.jsonl").exists()


def test_what_a_person_mended_is_not_written_over(folder: Path) -> None:
    with serving() as school:
        few = at(school, "--tokens", 1100, "--max-tokens", 200)
        synth(folder, *few)
        (folder / "rows.jsonl").write_text("mended by hand\n")
        done = fledge(folder, "synth", "seeds.jsonl", "--facts", "facts.yaml", "-o", "rows.jsonl", *few)
    assert done.returncode == 2 and "is there already" in done.stderr
    assert (folder / "rows.jsonl").read_text() == "mended by hand\n"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--teacher", "gpt"], "'gpt' is no teacher. Give local:TARGET"),
        (["--teacher", "local:smolm2-135m"], "'smolm2-135m' is not on this machine; did you mean 'smollm2-135m'?"),
        (["--teacher", "cmd:no-such-program"], "there is no program 'no-such-program'"),
        (["--teacher", "http://169.254.169.254/v1", "--model", "m"], "no teacher can be"),
        (["--teacher", "cmd:cat", "--budget", "1"], "--budget needs prices"),
        (["--hold", "rows"], "'rows' cannot be held out. Give one of: facts, wordings"),
        (["--documents", "docs"], "--facts and --documents exclude each other"),
        (["-o", "rows.csv"], "rows are written as JSONL"),
        (["-o", "facts.jsonl", "--facts", "facts.jsonl"], "one of the files to read"),
        (["-o", "there.jsonl"], "there.jsonl: is there already"),
        (["-o", "held.jsonl", "--eval", "0.2"], "held.eval.jsonl: is there already"),
        (["--facts", "nothing.yaml"], "nothing.yaml: no such file"),
        (["--facts", "bare.txt"], "bare.txt:1: frames do not know how to ask about it"),
        (["--facts", "one.txt", "--eval", "0.2"], "one fact cannot be both taught and held out"),
    ],
)
def test_what_people_get_wrong(folder: Path, arguments: list[str], expected: str) -> None:
    for name, text in {
        "facts.jsonl": '{"fact": "It is red."}\n', "there.jsonl": "x\n", "held.eval.jsonl": "x\n",
        "bare.txt": "Zorbs frobnicate quux.\n", "one.txt": "The lamp costs 5 euros.\n",
    }.items():  # fmt: skip
        (folder / name).write_text(text)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    given = {"--facts": "facts.yaml", "-o": "rows.jsonl", "-n": "20"}
    given |= dict(zip(arguments[::2], arguments[1::2], strict=True))
    flat = [part for pair in given.items() for part in pair]
    done = fledge(folder, "synth", "seeds.jsonl", *flat)
    assert done.returncode == 2, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert expected in line
    assert "Traceback" not in done.stderr
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.parametrize("junk", ["I would rather not.", '{"questions": ["What is it?"]}'])
def test_a_teacher_that_has_come_to_its_senses_is_asked_again(folder: Path, junk: str) -> None:
    """What it said before must not come out of the journal for ever, readable or not."""
    with serving(teach=lambda prompt, number: junk) as school:
        told = ("synth", "seeds.jsonl", "--facts", "facts.yaml", "-o", "rows.jsonl", "-n", 20, "--teacher", school.url)
        failed = fledge(folder, *told)
        assert failed.returncode == 2 and "no row passed the gate" in failed.stderr
        assert "rows.jsonl.journal.unused" in failed.stderr and "asked anew" in failed.stderr
        school.teach = eight_questions
        before = len(school.asked)
        done = fledge(folder, *told)
        assert done.returncode == 0, done.stderr
        assert len(school.asked) > before
    assert len(rows(folder / "rows.jsonl")) == 20


def test_among_good_answers_only_what_cannot_be_read_is_asked_again(folder: Path) -> None:
    with serving(teach=lambda prompt, number: "no" if number == 1 else eight_questions(prompt, number)) as school:
        told = ("-n", 100, "--teacher", school.url, "--parallel", 1)
        synth(folder, *told, "--tokens", 3000)
        first = [json.dumps(body) for _, body, _ in school.asked]
        assert len(first) >= 3 and len(rows(folder / "rows.jsonl")) < 100, "the budget stopped it"
        school.asked.clear()
        school.teach = lambda prompt, number: eight_questions(prompt, number + 100)
        synth(folder, *told)
        again = [json.dumps(body) for _, body, _ in school.asked]
    assert first[1] in again
    assert not {first[0], *first[2:]} & set(again)
