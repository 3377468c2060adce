"""The questions of the interview, one after the other, and the profile that the answers make. Asks nobody itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fledge.data.profile.record import Job, Language, Profile, Project, School

Answers = Mapping[str, str]
MOST_OF_A_KIND = 20


@dataclass(frozen=True)
class Question:
    """`key` names the answer; `hint` shows one. Every question may be skipped with an empty answer."""

    key: str
    text: str
    hint: str


_FIRST = (
    Question("name", "What is your name?", "Ana Ruiz"),
    Question("headline", "What do you do, in a few words?", "violin maker"),
    Question("place", "Where do you live?", "Porto, Portugal"),
    Question("about", "One or two sentences about you?", "I build things that last. I like small teams."),
)
# Asked again and again until the first of a group is skipped: (group, first words, next words, parts).
_GROUPS = (
    (
        "job", "Your work: what have you worked as, last job first?", "Another job? What as?",
        {"role": "violin maker", "employer": "At which company or place?|Viela Workshop", "start": "Since when?|2019",
         "end": "Until when? (skip it if you still work there)|2023"},
    ),
    (
        "school", "What did you study or learn?", "Anything else you studied or learnt?",
        {"degree": "BSc Physics", "school": "Where?|University of Porto", "end": "When did you finish?|2014"},
    ),
    (
        "project", "Your projects: what is one of them called?", "Another project? What is it called?",
        {"name": "Tidemark", "what": "What is it, in one sentence?|It tells surfers when the tide turns."},
    ),
)  # fmt: skip
_LAST = (
    Question("skills", "What are you good at? Put commas between.", "Python, woodwork, teaching"),
    Question("languages", "Which languages do you speak? Put commas between.", "Portuguese (native), English (good)"),
    Question("interests", "What do you like to do in your free time? Put commas between.", "surfing, choir"),
    Question("links", "Where are you on the web? Everybody who talks to the model may read it.", "anaruiz.example"),
    Question(
        "sign_off", "Is there something you say at the end of every message? It becomes a habit.", "All the best!"
    ),
)
_OTHERS = (
    "Anything else people should know? One sentence, in the first person.",
    "Another one?",
    "I have a dog called Faro.",
)


def next_question(answers: Answers) -> Question | None:
    """Return the first question without an answer, or None when all are asked; a skipped one is answered with ""."""
    for question in _questions(answers):
        if question.key not in answers:
            return question
    return None


def _questions(answers: Answers) -> list[Question]:
    """Return the questions that these answers lead to, in order, up to one that may lead to more."""
    found = [*_FIRST]
    for group, first, again, parts in _GROUPS:
        names = list(parts)
        for number in range(1, MOST_OF_A_KIND + 1):
            key = f"{group}.{number}.{names[0]}"
            found.append(Question(key, first if number == 1 else again, parts[names[0]]))
            if not answers.get(key):
                break
            for name in names[1:]:
                text, _, hint = parts[name].partition("|")
                found.append(Question(f"{group}.{number}.{name}", text, hint))
    found += _LAST
    for number in range(1, MOST_OF_A_KIND + 1):
        key = f"other.{number}"
        found.append(Question(key, _OTHERS[0 if number == 1 else 1], _OTHERS[2]))
        if not answers.get(key):
            break
    return found


def profile_of(answers: Answers) -> Profile:
    """Return what the answers tell; what was skipped stays empty."""

    def said(key: str) -> str:
        return answers.get(key, "").strip()

    def several(key: str) -> tuple[str, ...]:
        return tuple(dict.fromkeys(part for item in said(key).split(",") if (part := item.strip(" .;"))))

    def groups(name: str) -> range:
        count = sum(bool(said(f"{name}.{n}.{list(_parts(name))[0]}")) for n in range(1, MOST_OF_A_KIND + 1))
        return range(1, count + 1)

    return Profile(
        name=said("name"),
        headline=said("headline").rstrip("."),
        place=said("place").rstrip("."),
        about=_sentence(said("about")),
        email=said("email"),
        phone=said("phone"),
        links=several("links"),
        jobs=tuple(
            Job(*(said(f"job.{n}.{part}") for part in ("role", "employer", "start", "end"))) for n in groups("job")
        ),
        schools=tuple(
            _school(*(said(f"school.{n}.{part}") for part in ("degree", "school", "end"))) for n in groups("school")
        ),
        projects=tuple(
            Project(said(f"project.{n}.name"), _sentence(said(f"project.{n}.what"))) for n in groups("project")
        ),
        skills=several("skills"),
        languages=tuple(_language(item) for item in several("languages")),
        interests=several("interests"),
        others=tuple(filter(None, (_sentence(said(f"other.{n}")) for n in range(1, MOST_OF_A_KIND + 1)))),
        sign_off=said("sign_off"),
    )


def answers_of(profile: Profile) -> dict[str, str]:
    """Return the answers that a profile gives: what a CV told, to be kept or changed question by question."""
    answers = {
        "name": profile.name, "headline": profile.headline, "place": profile.place, "about": profile.about,
        "skills": ", ".join(profile.skills), "interests": ", ".join(profile.interests),
        "links": ", ".join(profile.links),
        "languages": ", ".join(f"{one.name} ({one.level})" if one.level else one.name for one in profile.languages),
    }  # fmt: skip
    for number, job in enumerate(profile.jobs, 1):
        # The interview asks for the role first; a job without one begins with its employer.
        role = job.role or job.employer
        parts = {"role": role, "employer": job.employer if job.role else "", "start": job.start, "end": job.end}
        answers |= {f"job.{number}.{part}": value for part, value in parts.items()}
    for number, school in enumerate(profile.schools, 1):
        parts = {"degree": school.degree or school.school, "school": school.school if school.degree else ""}
        answers |= {f"school.{number}.{part}": value for part, value in (parts | {"end": school.end}).items()}
    for number, project in enumerate(profile.projects, 1):
        answers |= {f"project.{number}.name": project.name, f"project.{number}.what": project.what}
    answers |= {f"other.{number}": sentence for number, sentence in enumerate(profile.others, 1)}
    return {key: value for key, value in answers.items() if value}


def _parts(name: str) -> dict[str, str]:
    return next(parts for group, _, _, parts in _GROUPS if group == name)


def _school(degree: str, school: str, end: str) -> School:
    return School(degree, school, end, end)


def _language(item: str) -> Language:
    name, _, level = item.partition("(")
    return Language(name.strip(), level.strip(" )"))


def _sentence(text: str) -> str:
    return text if not text or text.endswith((".", "!", "?", ")", '"')) else f"{text}."
