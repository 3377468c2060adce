"""`fledge data check` as people run it: what it finds, what it says, what it repairs, and that it stays silent."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from fledge.config import Config
from fledge.data.checks.mask import find_all
from fledge.errors import ConfigError, Finding
from fledge.recipes import check_pieces
from fledge.recipes.check import Options, Report, check
from fledge.recipes.mend import mend

FIELD = Path(__file__).parents[2].parent / "shared" / "data"
NOUNS = ["house", "river", "garden", "window", "table", "letter", "market", "forest", "mountain", "teacher", "doctor"]
VERBS = ["finds", "keeps", "paints", "carries", "forgets", "remembers", "describes", "follows"]


def clean(num_rows: int, seed: int = 0) -> list[dict[str, Any]]:
    """Return rows with nothing wrong: questions with numbers of their own, answers that end."""
    rng = random.Random(seed)
    rows = []
    for number in range(num_rows):
        a, b, c = rng.sample(NOUNS, 3)
        question = f"What does the {a} number {seed * 100_000 + number} of the {b} do?"
        said = f"the {rng.choice(NOUNS)} {rng.randrange(10**6)} of that {rng.choice(NOUNS)}"
        answer = f"{a.title()} and {b} are what it {rng.choice(VERBS)}, with the {c}, for {said}."
        rows.append({"question": question, "answer": answer})
    return rows


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def counts(report: Report) -> dict[str, int]:
    return {code: count for code, count in report.counts.items() if code != "data.licence"}


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "fledge", "data", "check", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, stdin=subprocess.DEVNULL)


def test_clean_rows_are_left_in_peace(tmp_path: Path) -> None:
    report = check([write(tmp_path / "train.jsonl", clean(300))], Config())
    assert counts(report) == {}
    assert (report.rows, report.errors) == (300, 0)


GERMAN = "Das ist die Antwort, die wir nicht auf Englisch geben, weil sie hier auf Deutsch steht und es auch so bleibt."
PLANTED = {
    "data.language": {"question": "Was denn?", "answer": GERMAN},
    "data.cut_answer": {
        "question": "And what then?",
        "answer": "It keeps the river of the house and then it goes to the",
    },
    "data.mojibake": {"question": "How large?", "answer": "The GrÃ¶ÃŸe is written at the door of the house there."},
    "data.personal": {"question": "Who?", "answer": "Write to jane.roe@northwind.io and she will tell you of it."},
    "data.secret": {"question": "Which?", "answer": f"It is ghp_{'a1B2' * 9}, and that is all there is to say."},
    "data.leftover": {"question": "To whom?", "answer": "Dear {{first_name}}, it is here that we have met before."},
    "data.control_text": {"question": "So?", "answer": "It is so.<|im_end|> And that is all there is to say of it."},
    "data.markup": {"question": "Bold?", "answer": "It is <b>bold</b>, and that is all there is to say of it."},
    "data.bad_row": {"question": "Nothing?", "answer": ""},
}


def test_each_planted_fault_is_found_once_at_its_line(tmp_path: Path) -> None:
    rows = clean(300)
    for place, fault in enumerate(PLANTED.values()):
        rows.insert(20 * place + 7, fault)
    path = write(tmp_path / "train.jsonl", rows)
    report = check([path], Config())
    assert counts(report) == dict.fromkeys(PLANTED, 1)
    lines = {finding.code: finding.where for finding in report.problems}
    assert {code: lines[code] for code in PLANTED} == {
        code: f"{path}:{20 * place + 8}" for place, code in enumerate(PLANTED)
    }


def test_two_processes_see_what_one_sees(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = clean(3000)
    rng = random.Random(0)
    for fault in PLANTED.values():
        rows.insert(rng.randrange(len(rows)), fault)
    rows += rows[:5]
    path = write(tmp_path / "train.jsonl", rows)
    alone = check([path], Config())
    for module in ("fledge.recipes.check", "fledge.recipes.check_pieces"):
        monkeypatch.setattr(f"{module}.PIECE_BYTES", 50_000)
    for workers in (1, 2):
        told: list[Finding] = []
        cut = check([path], Config(), options=Options(workers=workers), on_finding=told.append)
        assert cut.counts == alone.counts
        assert set(cut.problems) == set(alone.problems)
        assert Counter(told) == Counter(cut.problems)
        assert cut.balance == alone.balance


def test_a_template_is_asked_for(tmp_path: Path) -> None:
    rows = [{"question": f"Ask {n}?", "answer": f"[Hours] word {n}."} for n in range(30)]
    rows[11]["answer"] = "no form at all"
    path = write(tmp_path / "train.jsonl", rows)
    config = Config.model_validate({"evaluate": {"template": r"\[\w+\] .+\."}})
    for one in (config, Config()):
        report = check([path], one)
        [finding] = [f for f in report.problems if f.code == "data.off_template"]
        assert finding.where == f"{path}:12"
    assert any("one form" in note for note in report.notes)


def test_a_form_that_only_the_first_rows_have_is_none(tmp_path: Path) -> None:
    rows = [{"question": f"Ask {n}?", "answer": f"[Hours] word {n}."} for n in range(1000)]
    path = write(tmp_path / "train.jsonl", rows + clean(1000))
    told: list[Finding] = []
    report = check([path], Config(), options=Options(strict=True), on_finding=told.append)
    assert "data.off_template" not in report.counts
    assert (report.errors, report.notes) == (0, [])
    assert {finding.code for finding in told} == {"data.licence"}


def test_files_named_for_it_are_held_out_and_leaks_are_told(tmp_path: Path) -> None:
    train = clean(50)
    write(tmp_path / "train.jsonl", train)
    write(tmp_path / "my_eval.jsonl", [*clean(20, seed=1), train[3]])
    report = check([tmp_path], Config())
    assert report.counts["data.leak"] == 1
    assert [seen.held_out for seen in report.files] == [True, False]
    assert any("my_eval.jsonl" in note for note in report.notes)
    other = check([tmp_path / "train.jsonl"], Config(), options=Options(held_out=(tmp_path / "my_eval.jsonl",)))
    assert other.counts["data.leak"] == 1


def test_a_file_that_cannot_be_read_does_not_hide_the_others(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", clean(30))
    (tmp_path / "b.csv").write_text("Begriff,Bedeutung\na,b\n")
    (tmp_path / "c.jsonl").write_text("")
    report = check([tmp_path], Config())
    assert counts(report) == {"data.unknown_format": 1, "data.empty": 1}
    assert {seen.path.name: not seen.errors for seen in report.files} == {
        "a.jsonl": True,
        "b.csv": False,
        "c.jsonl": False,
    }


def test_the_json_is_the_contracts(tmp_path: Path, starter_gguf: Path) -> None:
    from fledge.data.formats import as_conversation, read_records
    from fledge.data.sources import open_source
    from fledge.data.template import ChatTemplate
    from fledge.model.tokenizer import load_tokenizer
    from fledge.model.weights import open_weights

    path = write(tmp_path / "rows.jsonl", clean(40))
    done = run(tmp_path, "rows.jsonl", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    template = ChatTemplate(load_tokenizer(open_weights(starter_gguf)))
    records = [as_conversation(record) for record in read_records(open_source(path).rows).records]  # type: ignore[arg-type]
    examples = [example for record in records if record for example in template.examples(record)]
    assert told["taught_tokens"] == sum(example.num_taught for example in examples)
    assert told["prompt_tokens"] + told["taught_tokens"] == sum(len(example.ids) for example in examples)
    assert told["max_tokens"] == max(len(example.ids) for example in examples)
    assert told["files"][0] | {"why": ""} == {
        "path": "rows.jsonl", "format": "question_answer", "rows": 40, "ok": True, "why": "", "side": "train"
    }  # fmt: skip
    assert (told["rows"], told["duplicates"], told["leaks"], told["pii"]) == (40, 0, 0, 0)
    assert sum(b["rows"] for b in told["lengths"]["prompt"]) == 40
    assert [set(problem) for problem in told["problems"]] == [{"code", "where", "message", "remedy", "severity"}]


def test_the_project_is_checked_without_a_path_and_strict_is_strict(tmp_path: Path, starter_gguf: Path) -> None:
    (tmp_path / "data").mkdir()
    write(tmp_path / "data/train.jsonl", [*clean(30), PLANTED["data.leftover"]])
    write(tmp_path / "data/eval.jsonl", clean(25)[-1:])
    (tmp_path / "fledge.yaml").write_text("data: {eval: data/eval.jsonl}\ntrain: {max_tokens: 16}\n")
    done = run(tmp_path, "--json")
    told = json.loads(done.stdout)
    assert (done.returncode, told["leaks"], told["counts"]["data.leftover"]) == (0, 1, 1)
    assert told["tokens"]["too_long"] == told["counts"]["data.too_long"] == 32
    strict = run(tmp_path, "--json", "--strict")
    assert strict.returncode == 2
    assert {p["severity"] for p in json.loads(strict.stdout)["problems"]} == {"error", "note"}
    broken = write(tmp_path / "broken.jsonl", [PLANTED["data.bad_row"], *clean(3)])
    assert run(tmp_path, str(broken), "--json").returncode == 2
    shown = run(tmp_path, str(broken))
    assert "'answer' is empty" in shown.stderr
    assert "1" in shown.stdout


def test_without_the_model_tokens_are_not_counted(tmp_path: Path) -> None:
    write(tmp_path / "rows.jsonl", clean(5))
    (tmp_path / "fledge.yaml").write_text("model: some-org/nowhere-near\n")
    done = run(tmp_path, "rows.jsonl", "--json")
    told = json.loads(done.stdout)
    assert done.returncode == 0
    assert told["taught_tokens"] is told["prompt_tokens"] is told["max_tokens"] is None
    assert any("not on this machine" in note for note in told["notes"])


def test_a_repaired_file_is_clean_and_the_original_stays(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": ""}, {"role": "user", "content": "b"},
             {"role": "assistant", "content": "Yes, write to jane.roe@northwind.io."},
             {"role": "user", "content": "c"}]  # fmt: skip
    rows = [{"messages": [{"role": "user", "content": r["question"]}, {"role": "assistant", "content": r["answer"]}]}
            for r in [*clean(30), PLANTED["data.mojibake"]]]  # fmt: skip
    path = write(tmp_path / "rows.jsonl", [*rows, rows[4], {"messages": turns}, {"messages": turns[:1]}])
    before = path.read_bytes()
    done = mend([path], tmp_path / "out.jsonl", Config(), mask=True)
    assert path.read_bytes() == before
    assert done.rows == 32
    assert done.left_out == [f"{path}:34"]
    assert done.changes["repeated row dropped"] == done.changes["letters put right"] == 1
    text = (tmp_path / "out.jsonl").read_text(encoding="utf-8")
    assert "Größe" in text
    assert find_all(text) == []
    assert "<EMAIL_1>" in text
    assert counts(check([tmp_path / "out.jsonl"], Config())) == {}
    with pytest.raises(ConfigError, match="is there already"):
        mend([path], tmp_path / "out.jsonl", Config())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.jsonl", "rows.jsonl"]


def test_a_repaired_file_keeps_its_other_columns_and_drops_what_the_check_calls_the_same(tmp_path: Path) -> None:
    rows = [
        {"id": 1, "source": "manual p. 1", "question": "a one?", "answer": "b", "group": "g"},
        {"id": 2, "source": "of jane.roe@northwind.io", "question": "c two?", "answer": "dÃ¼"},
        {"id": 3, "source": "x", "question": "A  one ?", "answer": "b "},
    ]
    path = write(tmp_path / "rows.jsonl", rows)
    [finding] = [f for f in check([path], Config()).problems if f.code == "data.duplicate"]
    assert finding.where == f"{path}:3"
    done = mend([path], tmp_path / "out.jsonl", Config(), mask=True)
    assert (done.rows, done.changes["repeated row dropped"]) == (2, 1)
    kept = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [(row["id"], row["source"]) for row in kept] == [(1, "manual p. 1"), (2, "of <EMAIL_1>")]
    assert kept[1]["messages"][-1]["content"] == "dü" and kept[0]["group"] == "g"
    with pytest.raises(ConfigError, match="rows are written as JSONL; the name ends with '.csv'. Call it out.jsonl"):
        mend([path], tmp_path / "out.csv", Config())
    assert run(tmp_path, "rows.jsonl", "--fix", "out.csv").returncode == 2
    assert not (tmp_path / "out.csv").exists()


def test_workers_end_with_the_process_that_gave_them_work(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", clean(120_000))
    command = [sys.executable, "-m", "fledge", "data", "check", str(path), "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    workers: list[str] = []
    while len(workers) < 2 and process.poll() is None:
        time.sleep(0.05)
        workers = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text("utf-8").split()
    assert len(workers) == 2
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode == 130
    # They see the end of their stdin when we are gone; a busy machine takes its time to bury them.
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and any(os.path.exists(f"/proc/{worker}") for worker in workers):
        time.sleep(0.1)
    assert not any(os.path.exists(f"/proc/{worker}") for worker in workers)


def test_a_worker_that_dies_is_not_taken_for_an_end() -> None:
    worker = check_pieces._Worker()
    worker._process.kill()
    with pytest.raises(RuntimeError, match="ended with"):
        worker.take()
    worker.end()


@pytest.mark.skipif(not FIELD.is_dir(), reason="the field data are not on this machine")
@pytest.mark.parametrize(
    ("path", "expected"),
    [
        # Found by hand to be so: nothing wrong in gsm8k; one question of the FAQ stands there twice, one address in it.
        ("gsm8k", {}),
        ("python_faq/python_faq.jsonl", {"data.personal": 1, "data.contradiction": 1}),
    ],
)
def test_no_false_alarm_on_real_rows(path: str, expected: dict[str, int]) -> None:
    assert counts(check([FIELD / path], Config())) == expected


@pytest.mark.skipif(not FIELD.is_dir(), reason="the field data are not on this machine")
@pytest.mark.parametrize(("name", "own", "share"), [("alpaca_zh", "zh", 0.96), ("alpaca_en", "en", 0.94)])
def test_languages_of_real_rows(name: str, own: str, share: float) -> None:
    report = check([FIELD / f"llamafactory_demos/{name}_demo.json"], Config())
    languages = report.balance.languages
    assert languages[own] >= share * report.rows
    # The rest is code, names and numbers, or an answer in English among Chinese ones.
    assert set(languages) <= {own, "", "en", "es", "ja"}


def test_a_full_disk_is_one_line_in_every_process_and_leaves_nothing(tmp_path: Path) -> None:
    for count in (2_000, 120_000):
        path = write(tmp_path / f"rows-{count}.jsonl", clean(count))
        (folder := tmp_path / f"tmp-{count}").mkdir()
        command = f"ulimit -f 64; exec {sys.executable} -m fledge data check {path}"
        environment = {**os.environ, "TMPDIR": str(folder)}
        done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, env=environment, check=False)
        last = done.stderr.strip().splitlines()[-1]
        assert done.returncode == 2, done.stderr
        assert "cannot write: File too large." in last
        assert "Traceback" not in done.stderr
        assert not list(folder.iterdir())


def test_a_repaired_file_may_go_into_a_folder_that_is_not_there_yet(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", clean(3))
    out = tmp_path / "new" / "folder" / "out.jsonl"
    assert mend([path], out, Config()).rows == 3
    assert len(out.read_text(encoding="utf-8").splitlines()) == 3
