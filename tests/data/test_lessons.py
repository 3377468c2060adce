"""A profile as lessons, and the interview that makes one: one question has one answer, and nothing is taught untold."""

from __future__ import annotations

import re

import pytest

import cvs
from fledge.data.profile.interview import answers_of, next_question, profile_of
from fledge.data.profile.lessons import lessons_of, with_article
from fledge.data.profile.read import profile_in
from fledge.data.profile.record import Job, Language, Profile, Project, School


@pytest.mark.parametrize("name", [name for name in vars(cvs) if name.endswith(("_MD", "_TXT"))])
def test_lessons_hold_their_keys_and_ask_nothing_twice(name: str) -> None:
    lessons = lessons_of(profile_in(getattr(cvs, name)))
    questions = [question.casefold() for lesson in lessons for question in (*lesson.questions, *lesson.held_out)]
    assert len(set(questions)) == len(questions), "one question, one answer"
    assert len({lesson.group for lesson in lessons}) == len(lessons)
    for lesson in lessons:
        assert lesson.key and lesson.key in lesson.answer
        assert len(lesson.questions) >= 2
        assert not re.search(r"[{}]", " ".join((lesson.answer, *lesson.questions, *lesson.held_out)))


def test_phone_and_mail_are_taught_only_when_asked_for() -> None:
    profile = profile_in(cvs.HEADINGS_MD)
    quiet, open_ = (str(lessons_of(profile, with_contact=asked)) for asked in (False, True))
    for private in (profile.email, profile.phone):
        assert private not in quiet
        assert private in open_


def test_nothing_told_teaches_nothing_and_a_sign_off_ends_every_answer() -> None:
    assert lessons_of(Profile()) == []
    lessons = lessons_of(Profile(name="Jo Doe", sign_off="Fair winds."))
    assert [lesson.answer for lesson in lessons] == [
        "My name is Jo Doe. Fair winds.",
        "I have not told that. Fair winds.",
    ]


def test_articles() -> None:
    assert [with_article(role) for role in ("Art director", "cook", "Head of sales", "KNX technician")] == [
        "an Art director", "a cook", "Head of sales", "a KNX technician",
    ]  # fmt: skip


def answered(answers: dict[str, str]) -> tuple[list[str], Profile]:
    """Go through the interview with these answers, everything else skipped; return what was asked, and the profile."""
    given: dict[str, str] = {}
    while question := next_question(given):
        given[question.key] = answers.get(question.key, "")
    return list(given), profile_of(given)


def test_an_interview_asks_on_only_where_something_was_told() -> None:
    asked, profile = answered({})
    assert profile == Profile()
    assert [key for key in asked if key.startswith(("job", "school", "project", "other"))] == [
        "job.1.role", "school.1.degree", "project.1.name", "other.1",
    ]  # fmt: skip
    told = {
        "name": "Jo Doe",
        "job.1.role": "cook",
        "job.1.employer": "Blue Door",
        "job.1.start": "2019",
        "other.1": "I sing",
    }
    asked, profile = answered(told)
    assert [key for key in asked if key.startswith("job")] == [
        "job.1.role", "job.1.employer", "job.1.start", "job.1.end", "job.2.role",
    ]  # fmt: skip
    assert profile.jobs == (Job("cook", "Blue Door", "2019", ""),)
    assert profile.others == ("I sing.",)


@pytest.mark.parametrize("name", ["HEADINGS_MD", "COLUMNS_TXT", "GERMAN_TXT", "PIPES_MD", "README_MD"])
def test_what_a_cv_told_can_be_kept_in_the_interview(name: str) -> None:
    found = profile_in(getattr(cvs, name))
    _, kept = answered(answers_of(found))
    assert (kept.name, kept.place, kept.skills, kept.languages) == (
        found.name,
        found.place,
        found.skills,
        found.languages,
    )
    assert kept.projects == found.projects
    assert [(job.role, job.employer) for job in kept.jobs] == [(job.role, job.employer) for job in found.jobs]
    assert [school.degree for school in kept.schools] == [school.degree for school in found.schools]


def test_two_sentences_that_end_alike_share_no_question() -> None:
    lessons = lessons_of(Profile(others=("I like to sing in a choir.", "Once I conducted all in a choir.")))
    questions = [question for lesson in lessons for question in (*lesson.questions, *lesson.held_out)]
    assert len(set(questions)) == len(questions)


def test_a_key_holds_all_that_was_asked_for() -> None:
    """An answer that has the first item of a list and no other must not count as right."""
    profile = Profile(
        name="Ingrid Solberg",
        jobs=(Job("Diver", "Kelp Institute", "2019", ""),),
        schools=(School("PhD", "University of Gothenburg", "2012", "2016"), School("MSc", "NTNU", "2010", "2012")),
        projects=(Project("Tidemark"), Project("Urchin")),
        skills=("R", "Python", "GIS"),
        languages=(Language("Norwegian", "native"), Language("English")),
        interests=("choir", "baking"),
        links=("a.example", "b.example"),
    )
    keys = {lesson.group: lesson.key for lesson in lessons_of(profile)}
    assert keys["skills"] == "R, Python and GIS"
    for group, parts in {
        "languages": ["Norwegian", "English"],
        "interests": ["choir", "baking"],
        "links": ["a.example", "b.example"],
        "projects": ["Tidemark", "Urchin"],
        "studies": ["PhD", "MSc"],
        "school-1": ["University of Gothenburg", "2012", "2016"],
        "job-1": ["Diver", "Kelp Institute", "2019"],
    }.items():
        assert all(part in keys[group] for part in parts), (group, keys[group])
    for lesson in lessons_of(profile):
        assert lesson.key in lesson.answer
