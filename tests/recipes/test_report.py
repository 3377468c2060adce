"""write_report(): a page that is whole, tells what is there and what is not, draws the data, and lets no reply out."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from fledge.evaluation.tasks import Evaluation, RowResult
from fledge.project import RunFolder, write_json_atomic
from fledge.recipes import measure
from fledge.recipes.charts import MOST_POINTS, thinned, value_scale
from fledge.recipes.measure import Served
from fledge.recipes.report import write_report
from fledge.records import Message

STEPS = 40
LOSSES = [3.0 * math.exp(-i / 6) * (1.3 if i % 7 == 3 else 1) for i in range(STEPS)]


class Page(HTMLParser):
    """Tags must nest and close; collects the text and the tags."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self.feed(html)
        self.close()
        assert not self.open, f"left open: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.words += data


def step(number: int, loss: float) -> dict[str, float]:
    counts = {"rows": 8, "tokens_effective": 600, "tokens_computed": 400, "seconds": 1.5}
    return {"step": number, "steps": STEPS, "loss": loss, "grad_norm": 1 / number, "lr": 1e-3 * number / STEPS} | counts


def begun(project: Path, *, num_steps: int = STEPS) -> RunFolder:
    """A run as it stands while it trains: knobs and steps."""
    run = RunFolder(project / "runs" / "0001-sft-tiny")
    run.path.mkdir(parents=True)
    record = {
        "fledge": "0.1.0",
        "notes": ["train.jsonl: 9 rows, read as messages", "train.lr = 0.001: small & <quick>: it fits"],
        "spread": {"answer": [{"from": 5, "to": 9, "rows": 7}, {"from": 10, "to": 14, "rows": 2}], "classes": {}},
        "knobs": {"model": "tiny", "objective": "sft", "method": "lora", "train": {"lr": 0.001, "clip_norm": 1.0}},
    }
    run.knobs.write_text(yaml.safe_dump(record), encoding="utf-8")
    lines = (json.dumps(step(i + 1, loss)) + "\n" for i, loss in enumerate(LOSSES[:num_steps]))
    run.metrics.write_text("".join(lines), encoding="utf-8")
    return run


def complete(project: Path, answers: list[RowResult] | None = None) -> RunFolder:
    """A run with a manifest, a released file and a verdict."""
    run = begun(project)
    summary = {"eval_loss": 0.05, "peak_rss_bytes": 3_100_000_000, "trainable_params": 4_900_000}
    write_json_atomic(run.manifest, {"model": "tiny", "base_sha256": "ab" * 32, "summary": summary})
    run.release.mkdir()
    parity = {"top1": 0.6, "top1_taught": 0.9985, "kl": 0.02, "kl_taught": 0.0002}
    parity |= {"threshold": {"top1": 0.99, "kl": 0.01}, "prompt_ids_equal": True}
    entry = {"path": "/x/tiny.q8_0.gguf", "kind": "merged", "type": "q8_0", "bytes": 144_800_000}
    entry |= {"bits_per_weight": 8.506, "parity": parity}
    write_json_atomic(run.release / "tiny.q8_0.json", entry)
    after = answers or [answer(i, correct=i % 4 != 0) for i in range(24)]
    before = [answer(i, correct=False) for i in range(len(after))]
    sides = [Served(run.path.name, Path("/x/tiny.q8_0.gguf")), Served("tiny", Path("/x/base.gguf"))]
    told = measure.report(sides, [evaluation(after, 0.75), evaluation(before, 0.0)], project=project)
    write_json_atomic(run.verdict, told)
    return run


def answer(number: int, *, correct: bool, reply: str = "the reply") -> RowResult:
    prompt = (Message("user", f"Question {number}?"),)
    return RowResult(f"eval.jsonl:{number}", None, prompt, "the answer", f"{reply} {number}", correct, True, True, 9)


def evaluation(rows: list[RowResult], accuracy: float) -> Evaluation:
    return Evaluation("contains", accuracy, (max(0, accuracy - 0.1), accuracy + 0.1), 0.5, 1.0, 99.0, tuple(rows))


def page_of(run: RunFolder) -> tuple[str, Page]:
    html = write_report(run).read_text(encoding="utf-8")
    return html, Page(html)


def drawn_points(html: str, figure: str, line: str) -> list[tuple[float, float]]:
    """Read the (step, value) points of a curve off its axes, as a person does: from the ticks and their labels."""
    found = re.search(rf'<figure id="{figure}">.*?(<svg class="plot".*</svg>)</div></figure>', html)
    assert found
    svg = ElementTree.fromstring(found[1].split("</div></figure>")[0])
    ticks = {
        axis: [
            (float(t.attrib[axis].rstrip("%")) / 100, float(t.text or ""))
            for t in svg.iterfind(f"text[@class='{axis}']")
        ]
        for axis in ("x", "y")
    }
    log = any("log scale" in (text.text or "") for text in svg.iterfind("text"))
    polyline = svg.find(f".//polyline[@class='{line}']")
    assert polyline is not None
    pairs = [tuple(float(n) / 1000 for n in pair.split(",")) for pair in polyline.attrib["points"].split()]
    return [(read_off(ticks["x"], x), read_off(ticks["y"], y, log=log)) for x, y in pairs]


def read_off(ticks: list[tuple[float, float]], place: float, *, log: bool = False) -> float:
    (place_0, first), (place_1, last) = ticks[0], ticks[-1]
    way = (place - place_0) / (place_1 - place_0)
    return first * (last / first) ** way if log else first + (last - first) * way


def test_a_complete_run_is_told_in_the_order_a_person_asks(tmp_path: Path) -> None:
    _, page = page_of(complete(tmp_path))
    told = [
        "Better than tiny: 75\N{NO-BREAK SPACE}% right answers instead of 0\N{NO-BREAK SPACE}%",
        *("6 of 24 are wrong", "Question 0?", "the answer", "the reply 0"),
        *("Tokens that are taught", "7 rows", "10 to 14", "2 rows"),
        *("held-out rows: 0.05", "Learning rate", "Gradient norm", "clipped at 1"),
        *("train.lr", "0.001", "small & <quick>: it fits"),
        *("tiny.q8_0.gguf", "the one that was asked", "144.8 MB", "8.51", "99.85\N{NO-BREAK SPACE}%", "at most 0.01"),
        *("60 s", "400 tokens/s", "1.50 ×", "3.1 GB", "4.9 million"),
    ]
    place = 0
    for words in told:
        place = page.words.find(words, place)
        assert place >= 0, f"missing or too early: {words}"
    widths = [a["width"] for tag, a in page.tags if tag == "rect" and a["class"] == "tuned"]
    assert widths == ["75%", "50%", "100%", "100%", "28.571%"]
    assert "None" not in page.words


def test_the_page_needs_nothing_else(tmp_path: Path) -> None:
    html, page = page_of(complete(tmp_path))
    assert not {tag for tag, _ in page.tags} & {"script", "link", "img", "iframe", "a", "object", "form"}
    assert not re.search(r"url\(|@import|https?:", html)
    policy = [attrs["content"] for _, attrs in page.tags if attrs.get("http-equiv") == "Content-Security-Policy"]
    assert policy == ["default-src 'none'; style-src 'unsafe-inline'"]


HOSTILE = (
    "</div></article></main><script>alert(1)</script><img src=x onerror='a()'>\" onload=\"b() <!-- &lt; \x00\x1b \ud83d"
)


def test_a_hostile_reply_stays_text(tmp_path: Path) -> None:
    rows = [answer(1, correct=False, reply=HOSTILE), answer(2, correct=True)]
    calm = Page(write_report(complete(tmp_path / "calm", [answer(1, correct=False), rows[1]])).read_text("utf-8"))
    html, page = page_of(complete(tmp_path / "hostile", rows))
    assert [tag for tag, _ in page.tags] == [tag for tag, _ in calm.tags]
    assert "<script>alert(1)</script>" in page.words  # shown, as text
    assert not re.search("[\x00\x1b]", html)


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    run = complete(tmp_path)
    for path, key in (
        (run.verdict, "target"),
        (run.verdict, "why"),
        (run.verdict, "file"),
        (run.manifest, "base_sha256"),
    ):
        write_json_atomic(path, json.loads(path.read_text("utf-8")) | {key: "<i>x"})
    record = yaml.safe_load(run.knobs.read_text("utf-8"))
    record["knobs"]["model"] = record["fledge"] = "<i>x"
    record["notes"] = ["train.lr = <i>: <i>", "<i>"]
    run.knobs.write_text(yaml.safe_dump(record), encoding="utf-8")
    _, page = page_of(run)
    assert "i" not in {tag for tag, _ in page.tags}
    assert page.words.count("<i>x") >= 5


@pytest.mark.parametrize(("figure", "key"), [("loss", "loss"), ("lr", "lr"), ("grad_norm", "grad_norm")])
def test_a_curve_read_off_its_axes_gives_the_numbers_back(tmp_path: Path, figure: str, key: str) -> None:
    html, _ = page_of(begun(tmp_path))
    expected = [(i + 1, step(i + 1, loss)[key]) for i, loss in enumerate(LOSSES)]
    shown = drawn_points(html, figure, "line" if figure == "lr" else "raw")
    assert [x for x, _ in shown] == pytest.approx([x for x, _ in expected], abs=0.01)
    assert [y for _, y in shown] == pytest.approx([y for _, y in expected], rel=2e-3, abs=1e-6)


def test_another_number_makes_another_curve(tmp_path: Path) -> None:
    """The negative control of reading off: one loss of forty, changed by a twentieth, is seen."""
    run = begun(tmp_path)
    lines = run.metrics.read_text("utf-8").splitlines()
    lines[20] = json.dumps(json.loads(lines[20]) | {"loss": 1.05 * LOSSES[20]})
    run.metrics.write_text("\n".join(lines), encoding="utf-8")
    html, _ = page_of(run)
    shown = [y for _, y in drawn_points(html, "loss", "raw")]
    assert [i for i, y in enumerate(shown) if y != pytest.approx(LOSSES[i], rel=2e-3)] == [20]


def test_the_thick_line_runs_through_the_middle(tmp_path: Path) -> None:
    html, _ = page_of(begun(tmp_path))
    thick = [y for _, y in drawn_points(html, "loss", "line")]
    assert thick[0] == pytest.approx(LOSSES[0], rel=2e-3)
    near = LOSSES[18:23]
    assert thick[20] == pytest.approx(math.exp(sum(map(math.log, near)) / 5), rel=2e-3)  # of a log scale: geometric


def test_a_run_that_was_interrupted_says_so(tmp_path: Path) -> None:
    run = begun(tmp_path, num_steps=10)
    with run.metrics.open("a", encoding="utf-8") as file:
        file.write('{"step": 11, "lo')
    html, page = page_of(run)
    assert "Not finished: 10 of 40 steps are done" in page.words
    assert "fledge train --resume 0001-sft-tiny" in page.words
    for words in (
        "Not measured yet",
        "It was not asked yet",
        "No file was released yet",
        "known when the run is finished",
    ):
        assert words in page.words
    assert max(x for x, _ in drawn_points(html, "loss", "raw")) == pytest.approx(10, abs=0.01)


def test_an_empty_run_folder_gives_a_page(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "0003-sft-none")
    run.path.mkdir()
    _, page = page_of(run)
    assert "no step is done" in page.words
    assert len(re.findall("class=.absent", run.report.read_text("utf-8"))) == 8  # the head and all six sections


@pytest.mark.parametrize("name", ["run.yaml", "manifest.json", "verdict.json", "release/tiny.q8_0.json"])
def test_a_part_that_is_missing_or_damaged_is_left_out(tmp_path: Path, name: str) -> None:
    run = complete(tmp_path)
    part = run.path / name
    part.write_bytes(b"\x00: [\xff{")
    _, page = page_of(run)
    assert f"cannot be read: {part.name}" in page.words
    part.unlink()
    _, page = page_of(run)
    assert "cannot be read" not in page.words


def test_one_side_alone_is_told_without_a_comparison(tmp_path: Path) -> None:
    run = complete(tmp_path)
    sides = [Served("tiny", Path("/x/base.gguf"))]
    write_json_atomic(
        run.verdict, measure.report(sides, [evaluation([answer(1, correct=True)], 1.0)], project=tmp_path)
    )
    _, page = page_of(run)
    assert "compared with nothing yet" in page.words
    assert "All 1 are right." in page.words


def test_a_moved_project_finds_its_answers(tmp_path: Path) -> None:
    complete(tmp_path / "here")
    (tmp_path / "here").rename(tmp_path / "there")
    _, page = page_of(RunFolder(tmp_path / "there" / "runs" / "0001-sft-tiny"))
    assert "6 of 24 are wrong" in page.words


def test_wrong_answers_come_first_and_one_of_a_group(tmp_path: Path) -> None:
    rows = [replace(answer(i, correct=i != 7), group=f"g{i // 4}") for i in range(12)]
    _, page = page_of(complete(tmp_path, rows))
    assert re.findall(r"Question (\d+)\?", page.words) == ["7", "0", "8"]


@given(st.lists(st.floats(1e-9, 1e9), min_size=2, max_size=50))
def test_a_scale_holds_its_values_between_its_ticks(values: list[float]) -> None:
    scale = value_scale(values)
    assert all(-1e-9 <= scale.share(value) <= 1 + 1e-9 for value in values)
    assert 2 <= len(scale.ticks) <= 8
    assert list(scale.ticks) == sorted(set(scale.ticks))


def test_a_long_line_is_thinned_to_its_extremes() -> None:
    points = [(float(i), math.sin(i)) for i in range(100_000)]
    peaks = [(float(i), 9.0) for i in range(0, 100_000, 777)]
    for x, y in peaks:
        points[int(x)] = (x, y)
    kept = thinned(points)
    assert len(kept) <= MOST_POINTS
    assert set(peaks) <= set(kept)
    assert kept == sorted(kept)
    assert thinned(points[:MOST_POINTS]) == points[:MOST_POINTS]


def test_tasks_stand_beside_the_whole_and_the_one_that_got_worse_is_marked(tmp_path: Path) -> None:
    tasks = ["data/facts.jsonl"] * 20 + ["data/<poems>.jsonl"] * 12
    before = [replace(answer(i, correct=i >= 20), task=task) for i, task in enumerate(tasks)]
    after = [replace(answer(i, correct=i < 20), task=task) for i, task in enumerate(tasks)]
    run = complete(tmp_path)
    sides = [Served(run.path.name, Path("/x/tiny.q8_0.gguf")), Served("tiny", Path("/x/base.gguf"))]
    losses = {"data/facts.jsonl": 0.25}
    told = measure.report(sides, [evaluation(after, 0.625), evaluation(before, 0.375)], project=tmp_path, losses=losses)
    assert [(t["task"], t["accuracy"], t["accuracy_before"], t["worse"], t["loss"]) for t in told["tasks"]] == [
        ("data/facts.jsonl", 1.0, 0.0, False, 0.25),
        ("data/<poems>.jsonl", 0.0, 1.0, True, None),
    ]
    assert told["why"].endswith("Got worse: data/<poems>.jsonl (100 points on 12 rows).")
    write_json_atomic(run.verdict, told)
    html, page = page_of(run)
    assert "data/<poems>.jsonl worse12100.0\N{NO-BREAK SPACE}%0.0\N{NO-BREAK SPACE}%" in page.words
    assert "0.250" in page.words
    assert html.count('<table class="tasks">') == 1
    alone = measure.report(sides[:1], [evaluation(after[:20], 1.0)], project=tmp_path)
    assert [task["task"] for task in alone["tasks"]] == ["data/facts.jsonl"]
    write_json_atomic(run.verdict, alone)
    assert '<table class="tasks">' not in page_of(run)[0], "one task is the whole"
