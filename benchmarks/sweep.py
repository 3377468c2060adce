"""What `auto` takes against the best of a sweep: `python benchmarks/sweep.py [--trials 20] [--sets stdlib,sms,snips]`.

Three sets, each swept over learning rate, rank and epochs by the share of held-out questions that the file answers
right through llama.cpp; what auto takes is the first trial. The target: auto is at most two points below the best.
(stdlib) the shipped example, 264 rows of facts; (sms) spam or not, 200 messages of each held against 100 of each;
(snips) which of seven intents, 20 requests of each against 15. The last two are read in place, and left out where they
are not there.

Takes about half an hour a set on two quiet cores. Figures go to results.csv, every trial to sweeps.jsonl.
"""

from __future__ import annotations

import argparse
import datetime
import json
import random
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from results import append, processor_versions
from sets import ROOT, SHARED

TRIALS, TARGET = Path(__file__).parent / "sweeps.jsonl", 0.02
SPACE = ("train.lr=1e-4..1e-2", "train.rank=8,16,32", "train.epochs=2..15")
SETS = ("stdlib", "sms", "snips")
SMS_QUESTION = "Is this message spam or ham? Answer with one word.\n\n"
SNIPS_QUESTION = "What does this request want? Answer with the name of the intent.\n\n"


def write_project(name: str, folder: Path, *, share: float) -> bool:
    """Write a project of a set, with a share of its rows to learn from; return whether its data is there."""
    (folder / "data").mkdir(parents=True)
    if name == "stdlib":
        example = ROOT / "examples/python-stdlib"
        for file in ("data/train.jsonl", "data/eval.jsonl", "fledge.yaml"):
            lines = (example / file).read_text(encoding="utf-8").splitlines(keepends=True)
            if file == "data/train.jsonl":
                random.Random(0).shuffle(lines)
                lines = lines[: round(share * len(lines))]
            (folder / file).write_text("".join(lines), encoding="utf-8")
        return True
    read, counts = {"sms": (_sms, (200, 100)), "snips": (_snips, (20, 15))}[name]
    by_label = dict(read())
    if not by_label:
        return False
    train, held_out = [], []
    for label, texts in sorted(by_label.items()):
        random.Random(0).shuffle(texts)
        ends = round(share * counts[0]), counts[0], counts[0] + counts[1]
        rows = [{"question": text, "answer": label} for text in texts]
        train += rows[: ends[0]]
        held_out += rows[ends[1] : ends[2]]
    for file, part in (("train", train), ("eval", held_out)):
        text = "".join(json.dumps(row) + "\n" for row in part)
        (folder / f"data/{file}.jsonl").write_text(text, encoding="utf-8")
    config = {
        "model": "smollm2-135m",
        "data": {"train": "data/train.jsonl", "eval": "data/eval.jsonl"},
        "generate": {"max_tokens": 16},
        "evaluate": {"score": "exact"},
    }
    (folder / "fledge.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    return True


def _sms() -> Iterator[tuple[str, list[str]]]:
    path = SHARED / "sms_spam/SMSSpamCollection.tsv"
    if not path.is_file():
        return
    rows = [line.split("\t") for line in path.read_text(encoding="utf-8", errors="replace").splitlines()]
    for label in ("ham", "spam"):
        # The same message stands there many times; held-out ones must be new.
        yield (
            label,
            [SMS_QUESTION + text for text in dict.fromkeys(row[1].strip('"') for row in rows if row[0] == label)],
        )


def _snips() -> Iterator[tuple[str, list[str]]]:
    for path in sorted((SHARED / "snips_nlu").glob("validate_*.json")):
        [(intent, requests)] = json.loads(path.read_text(encoding="utf-8")).items()
        texts = ("".join(part["text"] for part in request["data"]).strip() for request in requests)
        yield intent, [SNIPS_QUESTION + text for text in dict.fromkeys(texts)]


def sweep(name: str, arguments: argparse.Namespace) -> dict[str, Any] | None:
    """Return what a sweep of a set tells, or None where its data is not there."""
    from fledge.recipes.sweep import Stage, Wish, begin

    with tempfile.TemporaryDirectory(prefix=f"fledge-sweep-{name}-") as folder:
        project = Path(folder) / name
        if not write_project(name, project, share=arguments.share):
            return None
        last = ""

        def progress(done: float, total: int, note: str) -> None:
            nonlocal last
            if (words := f"{name}: trial {int(done) + 1} of {total}  {note.partition('  ')[0]}") != last:
                print(words, file=sys.stderr, flush=True)
                last = words

        def say(text: str) -> None:
            print(text, file=sys.stderr, flush=True)

        wish = Wish((*SPACE, *arguments.knobs), arguments.metric, arguments.trials, arguments.minutes)
        return begin(project, wish, Stage(say=say, progress=progress))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--minutes", type=float, default=None, help="of each set")
    parser.add_argument("--sets", default=",".join(SETS))
    parser.add_argument("--metric", default="score")
    parser.add_argument("--share", type=float, default=1.0, help="of the rows to learn from")
    parser.add_argument("knobs", nargs="*", help="set for all trials, such as train.keep=last")
    arguments = parser.parse_args()
    from fledge.model.process import prepare_process

    prepare_process()
    met = True
    for name in arguments.sets.split(","):
        result = sweep(name, arguments)
        if result is None:
            print(f"{name}: its data is not here", file=sys.stderr)
            continue
        met &= _tell(name, result, arguments)
    return 0 if met else 1


def _tell(name: str, result: dict[str, Any], arguments: argparse.Namespace) -> bool:
    """Keep every trial, print what auto is worth, and return whether it is near enough to the best."""
    versions = processor_versions()
    with TRIALS.open("a", encoding="utf-8") as file:
        about = {"date": f"{datetime.date.today()}", "commit": versions.commit, "processor": versions.processor}
        about |= {"set": name, "share": arguments.share, "knobs": arguments.knobs, "metric": result["metric"]}
        for trial in result["trials"]:
            kept = {key: value for key, value in trial.items() if key not in ("run", "adapter", "model")}
            file.write(json.dumps(about | kept) + "\n")
    best, usual = result["best"], result["auto"]
    if best is None or usual is None:
        print(f"{name}: auto was not among the trials that came to their end")
        return False
    behind = (best["value"] - usual["value"]) * (1 if result["higher_is_better"] else -1)
    done = [trial["value"] for trial in result["trials"] if trial["value"] is not None]
    print(
        f"{name}: auto {usual['value']:.3f} (loss {usual['eval_loss']:.3f}), best of {len(done)} {best['value']:.3f} "
        f"(loss {best['eval_loss']:.3f}) with {best['knobs']}, median {sorted(done)[len(done) // 2]:.3f}; "
        f"auto is {100 * behind:.1f} points behind: {'within' if behind <= TARGET else 'MORE THAN'} {100 * TARGET:.0f}"
    )
    figures = {"auto": usual["value"], "best": best["value"], "behind": behind, "trials": len(result["trials"])}
    append(f"sweep {name} by {result['metric']}, share {arguments.share:g}", figures, versions)
    return bool(behind <= TARGET)


if __name__ == "__main__":
    sys.exit(main())
