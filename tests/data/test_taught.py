"""What of a conversation is taught: the assistant's words and the token that ends the turn, nothing else."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from fledge.data.template import ChatTemplate
from fledge.data.tokenizer import Tokenizer
from fledge.errors import DataError
from fledge.model.tokenizer import load_tokenizer
from fledge.model.weights import open_weights
from fledge.records import Conversation, Example, Message, ToolCall

IM_START, IM_END = 1, 2
# Says earlier answers without their reasoning, as Qwen3 and others do.
FORGETS = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' and not loop.last %}{{ m.content.split('</think>')[-1] }}"
    "{% else %}{{ m.content }}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
STRIPS = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content | trim }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
UNENDED = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
# Opens the answer only where it is asked for.
THINKS = STRIPS.replace("assistant\n{% endif %}", "assistant\n<think>\n{% endif %}")


@pytest.fixture(scope="module")
def starter(starter_gguf: Path) -> Tokenizer:
    return load_tokenizer(open_weights(starter_gguf))


def talk(*turns: str, system: str | None = None) -> Conversation:
    head = [Message("system", system)] if system else []
    said = [Message("assistant" if i % 2 else "user", turn) for i, turn in enumerate(turns)]
    return Conversation((*head, *said), "rows.jsonl:3")


def runs(example: Example) -> list[list[int]]:
    """The taught ids, one list for each unbroken run of them."""
    found: list[list[int]] = []
    for i, (token, weight) in enumerate(zip(example.ids, example.weights, strict=True)):
        if weight:
            if not i or not example.weights[i - 1]:
                found.append([])
            found[-1].append(token)
    return found


def taught(tokenizer: Tokenizer, example: Example) -> list[str]:
    return [tokenizer.decode(run) for run in runs(example)]


WORDS = [
    "Yes",
    " 42",
    "naïve",
    "東京\n",
    "\n",
    "  ",
    "🦙",
    "it's",
    "{{ x }}",
    "<b>",
    "<|im_end|>",
    "<|im_start|>user\n",
    "Q:",
]


def random_talks(count: int) -> list[Conversation]:
    numbers = random.Random(5)

    def words() -> str:
        return "".join(numbers.choices(WORDS, k=numbers.randint(1, 6))) + "."

    return [
        talk(*(words() for _ in range(numbers.choice([2, 4, 6]))), system=numbers.choice([None, words()]))
        for _ in range(count)
    ]


@pytest.mark.parametrize("mode", ["all", "last"])
def test_taught_is_what_the_assistant_says_and_the_end_of_its_turn(starter: Tokenizer, mode: str) -> None:
    template = ChatTemplate(starter)
    for conversation in random_talks(80):
        (example,) = template.examples(conversation, taught=mode)  # type: ignore[arg-type]
        replies = [m.content for m in conversation.messages if m.role == "assistant"]
        said = replies if mode == "all" else replies[-1:]
        assert taught(starter, example) == [f"{reply}<|im_end|>" for reply in said]
        assert all(run[-1] == IM_END for run in runs(example))
        assert set(example.weights) == {0.0, 1.0}
        # Nothing is lost or added around it, and it is said in the template's own words.
        assert starter.decode(example.ids) == template.render(conversation.messages)
        # As many control tokens as the template writes, whatever the messages hold.
        first_is_system = conversation.messages[0].role == "system"
        assert example.ids.count(IM_START) == len(conversation.messages) + (not first_is_system)
        assert example.ids.count(IM_END) == example.ids.count(IM_START)


@pytest.mark.parametrize("source", [None, STRIPS, FORGETS, UNENDED])
@pytest.mark.parametrize("mode", ["all", "last"])
def test_what_stands_before_the_first_taught_token_is_the_prompt_that_is_served(
    starter: Tokenizer, mode: str, source: str | None
) -> None:
    template = ChatTemplate(starter, source=source)
    for conversation in random_talks(60):
        first = next(i for i, m in enumerate(conversation.messages) if m.role == "assistant")
        index = first if mode == "all" else len(conversation.messages) - 1
        example = template.examples(conversation, taught=mode)[0]  # type: ignore[arg-type]
        assert example.ids[: example.weights.index(1.0)] == template.prompt_ids(conversation.messages[:index])


def test_a_template_that_forgets_gives_one_example_for_each_turn_as_it_is_served(starter: Tokenizer) -> None:
    template = ChatTemplate(starter, source=FORGETS)
    conversation = talk("one", "<think>a</think>1", "two", "<think>b</think>2", "three", "<think>c</think>3")
    examples = template.examples(conversation)
    assert [taught(starter, e) for e in examples] == [
        [f"<think>{x}</think>{n}<|im_end|>"] for x, n in ("a1", "b2", "c3")
    ]
    for number, example in enumerate(examples):
        prompt = conversation.messages[: 2 * number + 1]
        assert example.ids[: example.weights.index(1.0)] == template.prompt_ids(prompt)
        assert example.origin == "rows.jsonl:3"
    assert "<think>a" not in starter.decode(examples[1].ids)
    assert len(template.examples(conversation, taught="last")) == 1
    assert len(template.examples(talk("one", "1", "two", "2"))) == 1, "nothing was forgotten here"


def test_a_template_that_strips_teaches_the_stripped_words(starter: Tokenizer) -> None:
    (example,) = ChatTemplate(starter, source=STRIPS).examples(
        talk(" Q\n", "\n A <|im_end|> b \n", "Q2 ", " <|im_end|>")
    )
    assert taught(starter, example) == ["A <|im_end|> b<|im_end|>", "<|im_end|><|im_end|>"]
    assert example.ids.count(IM_END) == 4


def test_a_template_without_an_end_token_teaches_the_whole_turn(starter: Tokenizer) -> None:
    template = ChatTemplate(starter, source=UNENDED)
    (example,) = template.examples(talk("Q", "A <|im_end|> b", "Q2", "A2"))
    assert taught(starter, example) == ["A <|im_end|> b\n\n", "A2\n\n"]
    assert IM_END not in example.ids


@pytest.mark.parametrize("content", ["<|im_<think></think>end|>", "<|im_end|></think>x", "x</think><|im_end|>"])
def test_rewriting_a_message_cannot_smuggle_a_control_token_in(starter: Tokenizer, content: str) -> None:
    """A template that cuts messages up may put a control string together, or hide where one stood."""
    cuts = FORGETS.replace("m.content.split('</think>')[-1]", "m.content.replace('<think></think>', '')")
    for source in (cuts, FORGETS):
        template = ChatTemplate(starter, source=source)
        messages = talk("Q", content, "Q2", "A2").messages
        try:
            ids = template.prompt_ids(messages[:3])
        except DataError as error:
            assert error.code == "data.template"
            assert "control tokens" in error.message
        else:
            assert ids.count(IM_END) == 3


def test_one_rewritten_message_does_not_hide_the_others(starter: Tokenizer) -> None:
    template = ChatTemplate(starter, source=FORGETS)
    conversation = talk("<|im_end|>", "<think>a</think>1", "two <|im_start|>", "2 <|im_end|> 2")
    assert [taught(starter, e)[-1] for e in template.examples(conversation)] == [
        "<think>a</think>1<|im_end|>",
        "2 <|im_end|> 2<|im_end|>",
    ]
    assert [e.ids.count(IM_END) for e in template.examples(conversation)] == [2, 4]


def test_a_place_for_reasoning_that_only_the_prompt_opens_is_closed_before_the_answer(starter: Tokenizer) -> None:
    """DeepSeek's R1 writes earlier answers without reasoning, and has the served model open with it."""
    template = ChatTemplate(starter, source=THINKS)
    (example,) = template.examples(talk("Q", "A <|im_end|>"))
    assert taught(starter, example) == ["\n</think>\n\nA <|im_end|><|im_end|>"]
    thought = Conversation((Message("user", "Q"), Message("assistant", "A", thinking="<|im_end|> hm")), "rows.jsonl:3")
    (example,) = template.examples(thought)
    assert taught(starter, example) == ["<|im_end|> hm\n</think>\n\nA<|im_end|>"]
    assert example.ids[: example.weights.index(1.0)] == template.prompt_ids(thought.messages[:1])
    assert example.ids.count(IM_END) == 2
    two = template.examples(talk("Q", "A", "Q2", "A2"))
    assert len(two) == 2, "the history that is served has no reasoning in it"
    assert "</think>" not in starter.decode(two[1].ids[: two[1].weights.index(1.0)])


def test_a_prompt_that_opens_the_answer_otherwise_than_it_is_written_is_refused(starter: Tokenizer) -> None:
    source = STRIPS.replace("assistant\n{% endif %}", "assistant, please:\n{% endif %}")
    with pytest.raises(DataError, match="differently from the prompt") as caught:
        ChatTemplate(starter, source=source).examples(talk("Q", "A"))
    assert (caught.value.code, caught.value.where) == ("data.template", "rows.jsonl:3")


def test_a_turn_that_is_only_read_is_not_taught(starter: Tokenizer) -> None:
    first, second = Message("assistant", "A", taught=False), Message("assistant", "A2")
    row = Conversation((Message("user", "Q"), first, Message("user", "Q2"), second), "rows.jsonl:3")
    (example,) = ChatTemplate(starter).examples(row)
    assert taught(starter, example) == ["A2<|im_end|>"]


def test_tools_are_shown_and_calls_are_taught(starter: Tokenizer) -> None:
    source = (
        "{% if tools %}<|im_start|>system\n{{ tools | tojson }}<|im_end|>\n{% endif %}{% for m in messages %}"
        "<|im_start|>{{ m.role }}\n{{ m.content }}{% for call in m.tool_calls or [] %}<call>{{ call.function.name }}"
        "({{ call.function.arguments | tojson }}){% endfor %}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    call = ToolCall("find", '{"what": "<|im_end|>"}')
    messages = (
        Message("user", "Q"),
        Message("assistant", "", tool_calls=(call,)),
        Message("tool", "<|im_start|>found"),
        Message("assistant", "There."),
    )
    row = Conversation(messages, "rows.jsonl:3", tools='[{"name": "find", "about": "<|im_end|>"}]')
    (example,) = ChatTemplate(starter, source=source).examples(row)
    assert taught(starter, example) == ['<call>find({"what": "<|im_end|>"})<|im_end|>', "There.<|im_end|>"]
    assert (example.ids.count(IM_START), example.ids.count(IM_END)) == (5, 5)
    assert example.ids[: example.weights.index(1.0)] == ChatTemplate(starter, source=source).prompt_ids(
        messages[:1], row.tools
    )


def test_generation_marks_change_nothing(starter: Tokenizer) -> None:
    marked = STRIPS.replace("{{ m.content | trim }}", "{% generation %}{{ m.content | trim }}{% endgeneration %}")
    conversation = talk("Q", "A", "Q2", "A2")
    assert ChatTemplate(starter, source=marked).examples(conversation) == ChatTemplate(starter, source=STRIPS).examples(
        conversation
    )


def test_a_template_that_says_nothing_of_tools_or_reasoning_is_found_out(starter: Tokenizer) -> None:
    silent = ChatTemplate(starter)
    assert silent.leaves_out == {"reasoning", "tool calls", "tools"}
    call = Message("assistant", "", tool_calls=(ToolCall("find", "{}"),))
    row = Conversation((Message("user", "Q"), call), "rows.jsonl:3")
    with pytest.raises(DataError, match="does not write tool calls") as caught:
        silent.examples(row)
    assert (caught.value.code, caught.value.where) == ("data.template", "rows.jsonl:3")
    speaking = ChatTemplate(
        starter,
        source=STRIPS.replace(
            "{{ m.content | trim }}",
            "{{ m.reasoning_content }}{{ m.content | trim }}"
            "{% for call in m.tool_calls or [] %}{{ call | tojson }}{% endfor %}",
        ),
    )
    assert speaking.leaves_out == {"tools"}
    assert speaking.examples(row)
    assert ChatTemplate(starter, source=THINKS).leaves_out == {"tool calls", "tools"}, "the prompt opens the reasoning"
