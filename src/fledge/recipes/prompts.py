"""Rows to prompts: what is asked, what a reply may be checked by, and the knobs of learning from rewards resolved."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fledge.config import Config
from fledge.data.packed import PackedExamples
from fledge.data.template import ChatTemplate
from fledge.errors import ConfigError, DataError
from fledge.recipes.judge import LATEST, newest_judge
from fledge.recipes.prepare import Lesson
from fledge.records import Conversation, Example, Learnt, Message
from fledge.training.aims import rolls_out
from fledge.training.auto import Choice


def end_ids(template: ChatTemplate) -> frozenset[int]:
    """Return the tokens that end a reply: the one that ends a turn in the template, and the model's own end."""
    said = Conversation((Message("user", "?"), Message("assistant", ".")), "")
    tokenizer = template.tokenizer
    ends = {example.last_taught for example in template.examples(said)} & set(tokenizer.control.values())
    own = tokenizer.control.get(tokenizer.eos or "")
    return frozenset(ends if own is None else ends | {own})


def teach_prompts(
    rows: Sequence[Learnt], template: ChatTemplate, config: Config, *, context_tokens: int, held_out: bool = False
) -> Lesson:
    """Return the prompts of `rows`, each with room for the longest reply, as a lesson whose `asked` are the rows.

    An example is a prompt and a stand-in for its reply: tokens that are replaced by what is sampled. Rows that are too
    long with it are left out whole and named. Raises DataError where nothing remains of rows that are not `held_out`.
    """
    assert config.rl.max_tokens != "auto"
    limit = min(config.train.max_tokens, context_tokens)
    whose = "train.max_tokens" if limit == config.train.max_tokens else "the model's context"
    ends = end_ids(template)
    stand_in = [min(ends, default=0)] * config.rl.max_tokens
    examples, asked, too_long = PackedExamples(), [], []
    for row in rows:
        assert isinstance(row, Conversation)
        prompt = template.prompt_ids(row.prompt, row.tools)
        if len(prompt) + len(stand_in) > limit:
            too_long.append(row.origin)
            continue
        weights = [0.0] * len(prompt) + [1.0] * len(stand_in)
        examples += [Example(prompt + stand_in, weights, row.origin, task=row.task)]
        asked.append(row)
    if rows and not asked and not held_out:
        raise DataError(
            "data.too_long",
            f"all {len(rows)} prompts with a reply of {len(stand_in)} tokens are longer than {whose} ({limit} tokens).",
            where=too_long[0],
            remedy="Lower rl.max_tokens, or shorten the prompts.",
        )
    return Lesson(examples, too_long, limit, whose, ends=ends, asked=tuple(asked))


def resolve_rl(config: Config, rows: Sequence[Learnt], *, project: Path) -> tuple[Config, list[Choice]]:
    """Return the config without any `auto` under `rl` but the sampler, and what was chosen.

    The newest judge is named by its run: a run that goes on later must be judged by the same. Other objectives leave it
    as it is. Raises ConfigError where nobody says what replies are worth and the rows don't either, RunError where no
    run judges.
    """
    if not rolls_out(config):
        return config, []
    rules: dict[str, tuple[object, str]] = {
        "max_tokens": (config.generate.max_tokens, "as generate.max_tokens"),
    }
    if config.objective == "grpo":
        rules["scale_rewards"] = (config.rl.loss != "dr_grpo", "the usual one of this loss")
    if config.rl.rewards == "auto":
        rules["rewards"] = (_reward_of(rows), "all answers are numbers")
    chosen = {knob: rule for knob, rule in rules.items() if getattr(config.rl, knob) == "auto"}
    values = config.rl.model_dump() | {knob: value for knob, (value, _) in chosen.items()}
    newest = f"model:{LATEST}"
    specs = values["rewards"] if isinstance(values["rewards"], dict | list) else [values["rewards"]]
    if newest in specs:
        named = f"model:{newest_judge(project).path.name}"
        kept = [named if spec == newest else spec for spec in specs]
        values["rewards"] = dict(zip(kept, specs.values(), strict=True)) if isinstance(specs, dict) else kept
    choices = [Choice(f"rl.{knob}", value, why) for knob, (value, why) in chosen.items()]
    return config.model_copy(update={"rl": type(config.rl).model_validate(values)}), choices


def answer_of(row: Conversation) -> str:
    """Return what a reply is checked by: the row's answer, or its last reply; "" where it has neither."""
    return row.reply if row.answer is None else row.answer


def _reward_of(rows: Sequence[Learnt]) -> str:
    answers = [answer_of(row) for row in rows if isinstance(row, Conversation)]
    if answers and all(map(_is_number, answers)):
        return "number"
    raise ConfigError(
        "config.bad_value",
        "nothing says what a reply is worth, and the rows' answers are not all numbers.",
        where="rl.rewards",
        remedy="Name a reward: a Python file, or one of docs/rewards.md such as exact or contains.",
    )


def _is_number(text: str) -> bool:
    try:
        float(text.strip().replace(",", ""))
    except ValueError:
        return False
    return True
