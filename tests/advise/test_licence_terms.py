"""What licences allow: each use gets the worst that a part says, and the reason names the part."""

from __future__ import annotations

import itertools

import pytest

from fledge.advise.licence import OWN_WORDS, USES, Part, Verdict, uses_of
from fledge.data.checks.licence import LICENCES
from fledge.model.catalog import MODELS

YES, IF, ASK, NO = Verdict.YES, Verdict.IF, Verdict.ASK, Verdict.NO


@pytest.mark.parametrize(
    ("licence", "expected"),
    [
        ("Apache-2.0", (YES, YES, IF, IF)),
        ("mit", (YES, YES, IF, IF)),
        ("CC0-1.0", (YES, YES, YES, YES)),
        ("cc-by-4.0", (YES, YES, IF, IF)),
        ("CC-BY-SA-4.0", (YES, YES, IF, IF)),
        ("CC-BY-NC-4.0", (YES, ASK, IF, NO)),
        ("cc_by_nc_sa_4.0", (YES, ASK, IF, NO)),
        ("CC-BY-ND-4.0", (YES, YES, ASK, NO)),
        ("qwen-research", (YES, ASK, IF, NO)),
        ("llama3.2", (YES, YES, IF, IF)),
        ("gemma", (YES, YES, IF, IF)),
        ("all rights reserved", (ASK, ASK, NO, NO)),
        ("", (ASK, ASK, ASK, ASK)),
        ("a licence of my own making", (ASK, ASK, ASK, ASK)),
        (OWN_WORDS, (YES, YES, YES, YES)),
    ],
)
def test_a_licence_allows_what_it_says(licence: str, expected: tuple[Verdict, ...]) -> None:
    uses = uses_of([Part("data", "rows.jsonl", licence)])
    assert tuple(uses[use].verdict for use in USES) == expected
    for use in USES:
        assert bool(uses[use].why) == (uses[use].verdict is not YES), "what is not simply allowed has a reason"


def test_of_several_parts_the_worst_counts_and_is_named() -> None:
    parts = [Part("base", "smollm2-135m", "apache-2.0"), Part("data", "chats", "CC-BY-NC-4.0")]
    sell = uses_of(parts)["sell"]
    assert sell.verdict is NO and "chats (CC-BY-NC-4.0)" in sell.why and "smollm2" not in sell.why
    publish = uses_of(parts)["publish"]
    assert publish.verdict is IF and "smollm2" in publish.why and "chats" in publish.why, "both conditions are kept"


@pytest.mark.parametrize("teacher", ["openai", "gpt-4o", "Claude", "https://api.openai.com/v1"])
def test_a_teacher_whose_terms_forbid_competing_is_told(teacher: str) -> None:
    uses = uses_of([Part("teacher", teacher, "")])
    assert uses["sell"].verdict is ASK and "compete" in uses["sell"].why and uses["private"].verdict is IF


def test_rules_and_local_models_teach_under_their_own_terms() -> None:
    assert uses_of([Part("teacher", "frames", "")])["sell"].verdict is YES
    assert "Llama" in uses_of([Part("teacher", "local:llama-3.2-1b", "llama3.2")])["sell"].why


def test_every_licence_that_is_recognised_beside_data_or_in_the_catalog_has_terms() -> None:
    names = [*LICENCES, *(model.licence for model in MODELS.values())]
    unknown = [name for name in names if uses_of([Part("data", "x", name)])["private"].verdict is ASK]
    assert unknown == ["all rights reserved"]


def test_more_parts_never_allow_more() -> None:
    licences = ("Apache-2.0", "CC0-1.0", "CC-BY-NC-4.0", "gemma", "", "all rights reserved")
    for one, other in itertools.product(licences, repeat=2):
        alone = uses_of([Part("base", "a", one)])
        both = uses_of([Part("base", "a", one), Part("data", "b", other)])
        assert all(both[use].verdict >= alone[use].verdict for use in USES)
