"""What is known of a person. An empty text means that nothing was said, and nothing is made up for it."""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass(frozen=True)
class Job:
    """`start` and `end` as they were written (2019, March 2020); end "" with a start: it goes on."""

    role: str = ""
    employer: str = ""
    start: str = ""
    end: str = ""


@dataclass(frozen=True)
class School:
    """What was studied or learnt, and where."""

    degree: str = ""
    school: str = ""
    start: str = ""
    end: str = ""


@dataclass(frozen=True)
class Project:
    """`what` it is, in a sentence."""

    name: str
    what: str = ""


@dataclass(frozen=True)
class Language:
    name: str
    level: str = ""


@dataclass(frozen=True)
class Profile:
    """headline: what somebody does, in a few words. others: any other sentence about them, in the first person.

    unsure: lines that look like something of this but that no rule understood; they are told and never used.
    left_out: any other lines of which nothing was taken, what was done in a job above all.
    """

    name: str = ""
    headline: str = ""
    place: str = ""
    about: str = ""
    email: str = ""
    phone: str = ""
    links: tuple[str, ...] = ()
    jobs: tuple[Job, ...] = ()
    schools: tuple[School, ...] = ()
    projects: tuple[Project, ...] = ()
    skills: tuple[str, ...] = ()
    languages: tuple[Language, ...] = ()
    interests: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    sign_off: str = ""
    unsure: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()


# What a CV usually tells, as people call it.
PARTS = {
    "name": "name", "headline": "what you do", "place": "place", "about": "about you", "email": "e-mail",
    "phone": "phone", "links": "links", "jobs": "jobs", "schools": "education", "projects": "projects",
    "skills": "skills", "languages": "languages", "interests": "interests",
}  # fmt: skip


def found_in(profile: Profile) -> dict[str, int]:
    """Return how many things of each kind a profile holds, in words; those it lacks with 0."""
    assert set(PARTS) <= {field.name for field in fields(Profile)}
    counts = {}
    for part, words in PARTS.items():
        value = getattr(profile, part)
        counts[words] = len(value) if isinstance(value, tuple) else int(bool(value))
    return counts
