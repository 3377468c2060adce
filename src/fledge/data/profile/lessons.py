"""Profile -> what a model is taught of it: one answer in the first person a fact, and several ways to ask for it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from fledge.data.profile.record import Job, Profile, Project, School
from fledge.data.profile.wordings import ask

UNTOLD_ANSWER = "I have not told that."
MOST_SKILLS = 12


@dataclass(frozen=True)
class Lesson:
    """One fact: `answer` is what is said, `key` what no answer may lose.

    questions: wordings that are learnt. held_out: wordings that are only asked, to measure.
    """

    group: str
    answer: str
    key: str
    questions: tuple[str, ...]
    held_out: tuple[str, ...]


def lessons_of(profile: Profile, *, with_contact: bool = False) -> list[Lesson]:
    """Return what is taught of a profile. Phone and e-mail only `with_contact`: what is taught can be asked for."""
    known = [
        *_who(profile),
        *_jobs(profile.jobs),
        *_schools(profile.schools),
        *(_project(project, number) for number, project in enumerate(profile.projects, 1)),
        *_lists(profile),
        *(_other(sentence, number) for number, sentence in enumerate(profile.others, 1)),
        *(_contact(profile) if with_contact else ()),
    ]
    if known:
        known.append(_lesson("untold", UNTOLD_ANSWER, UNTOLD_ANSWER, "untold"))
    # Two jobs at one place are asked for by the same words; the first keeps them, lest one question has two answers.
    asked: set[str] = set()
    lessons = []
    for lesson in known:
        questions, held_out = (
            tuple(question for question in own if question.casefold() not in asked)
            for own in (lesson.questions, lesson.held_out)
        )
        asked.update(question.casefold() for question in (*questions, *held_out))
        if questions:
            answer = f"{lesson.answer} {profile.sign_off}".strip()
            lessons.append(replace(lesson, answer=answer, questions=questions, held_out=held_out))
    return lessons


def _lesson(group: str, answer: str, key: str, kind: str, **words: str) -> Lesson:
    return Lesson(group, answer, key, *ask(kind, **words))


def _who(profile: Profile) -> Iterator[Lesson]:
    if profile.name:
        yield _lesson("name", f"My name is {profile.name}.", profile.name, "name")
    if profile.headline:
        # "Software developer, Oslo" holds more than a role; it is said as it stands.
        role = profile.headline if "," in profile.headline else with_article(profile.headline)
        said = f"What I do: {role}." if role == profile.headline and "," in role else f"I work as {role}."
        yield _lesson("headline", said, role, "headline")
    if profile.place:
        yield _lesson("place", f"I live in {profile.place}.", profile.place, "place")
    if profile.about:
        yield _lesson("about", profile.about, profile.about, "about")


def _jobs(jobs: Sequence[Job]) -> Iterator[Lesson]:
    """Yield the jobs. Of several at one place each is asked for by its role: the place alone would have two answers."""
    counts = Counter(job.employer for job in jobs)
    seen: set[str] = set()
    for number, job in enumerate(jobs, 1):
        yield from _job(job, f"job-{number}", again=job.employer in seen, alone=counts[job.employer] == 1)
        seen.add(job.employer)


def _job(job: Job, group: str, *, again: bool, alone: bool) -> Iterator[Lesson]:
    now = bool(job.start) and not job.end
    since = (
        f"since {job.start}" if now else f"in {job.start}" if job.start == job.end else f"from {job.start} to {job.end}"
    )
    when = f" {since}" if job.start else ""
    words = {"employer": job.employer, "did": "do" if now else "did", "Did": "Do" if now else "Did"}
    words["was"] = "is" if now else "was"
    if job.role:
        words["role"] = with_article(job.role)
    said = " ".join(["I have worked" if now else "I worked", *([f"as {words['role']}"] if job.role else [])])
    said += f" at {job.employer}" if job.employer else ""
    kind = "job of a role" if job.role and (again or not job.employer) else "job"
    kind = kind if job.role else "job of an employer"
    # All of it: whoever asks where wants the place, whoever asks what the role.
    whole = f"{said}{when}"
    key = whole.removeprefix("I have worked ").removeprefix("I worked ") if job.role else f"{job.employer}{when}"
    yield _lesson(group, f"{whole}.", key, kind, **words)
    if now and job.employer:
        yield _lesson(f"{group}-now", f"I work at {job.employer} now.", job.employer, "job now")
    if job.start and job.employer and alone:
        kind = "job since" if now else "job time"
        answer = f"I {'have worked' if now else 'worked'} at {job.employer}{when}."
        yield _lesson(f"{group}-time", answer, since, kind, employer=job.employer)


def _schools(schools: Sequence[School]) -> Iterator[Lesson]:
    for number, school in enumerate(schools, 1):
        span = f"from {school.start} to {school.end}" if school.start != school.end else f"in {school.start}"
        when = f" {span}" if school.start and school.end else f" since {school.start}" if school.start else ""
        where = f" at {school.school}" if school.school else ""
        said = f"I did my {school.degree}{where}{when}." if school.degree else f"I studied{where}{when}."
        kind, words = ("degree", {"degree": school.degree}) if school.degree else ("school", {"school": school.school})
        yield _lesson(f"school-{number}", said, f"{school.school or school.degree}{when}", kind, **words)
    if schools:
        names = list(dict.fromkeys(school.degree or school.school for school in schools))
        yield _lesson("studies", f"My education is {join(names)}.", join(names), "studies")


def _project(project: Project, number: int) -> Lesson:
    name, what = project.name, project.what
    if not what:
        return _lesson(f"project-{number}", f"{name} is a project of mine.", name, "project", name=name)
    # "a game about rivers" and "Tells surfers ..." both go on from the name and a colon.
    answer = what if what.startswith(name) else f"{name}: {what}"
    return _lesson(f"project-{number}", answer, what.rstrip(".!?"), "project", name=name)


def _lists(profile: Profile) -> Iterator[Lesson]:
    if profile.projects and profile.name:
        names = [project.name for project in profile.projects]
        verb = "projects are" if len(names) > 1 else "project is"
        yield _lesson("projects", f"My {verb} {join(names)}.", join(names), "projects")
    if skills := profile.skills[:MOST_SKILLS]:
        yield _lesson("skills", f"My skills are {join(skills)}.", join(skills), "skills")
    if profile.languages:
        told = [f"{one.name} ({one.level})" if one.level else one.name for one in profile.languages]
        yield _lesson("languages", f"I speak {join(told)}.", join(told), "languages")
    if profile.interests:
        interests = join(profile.interests)
        yield _lesson("interests", f"In my free time I like {interests}.", interests, "interests")
    if profile.links:
        yield _lesson("links", f"You find me at {join(profile.links)}.", join(profile.links), "links")


_ABOUT = re.compile(r"(.{1,40}?) (has these features|is installed with|needs|is under the)\b:?")


def _other(sentence: str, number: int) -> Lesson:
    """Return a lesson for any sentence: asked for by its subject, or by its last words, which often hold the news."""
    sentence = " ".join(sentence.split())
    if about := _ABOUT.match(sentence):
        rest = re.split(r"[;.]\s", sentence[about.end() :].strip())[0].rstrip(".")
        return _lesson(f"fact-{number}", sentence, rest, about[2], name=about[1])
    words = re.sub(r"[.!?]+$", "", sentence).split()
    topic = " ".join(words[-3:]) if len(words) > 5 else " ".join(words[1:] or words)
    return _lesson(f"fact-{number}", sentence, topic, "topic", topic=topic)


def _contact(profile: Profile) -> Iterator[Lesson]:
    if profile.email:
        yield _lesson("email", f"My e-mail address is {profile.email}.", profile.email, "email")
    if profile.phone:
        yield _lesson("phone", f"My phone number is {profile.phone}.", profile.phone, "phone")


# There is one of them in a place, so they take no article.
_ONLY_ONE = re.compile(
    r"(?:head|chief|ceo|cto|cfo|coo|vice|director of|owner|founder|co-?founder|leiter|leiterin)\b", re.I
)


def with_article(role: str) -> str:
    """Return a role as it is said in a sentence, its capitals as they were written: an Art director, Head of sales."""
    if _ONLY_ONE.match(role):
        return role
    return f"{'an' if role[0].lower() in 'aeiou' else 'a'} {role}"


def join(items: Sequence[str]) -> str:
    """Return items as a list is said: a, b and c."""
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"
