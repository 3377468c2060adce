"""Who a CV or README is about: found by rule in the layouts people use, and never made up."""

from __future__ import annotations

import html
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import cvs
from fledge.data.profile.dates import find_span
from fledge.data.profile.lessons import lessons_of
from fledge.data.profile.read import profile_in, read_profile
from fledge.data.profile.record import Language, Profile, Project, School, found_in
from fledge.errors import DataError
from papers import docx, pdf


def jobs(profile: Profile) -> list[tuple[str, str, str, str]]:
    return [(job.role, job.employer, job.start, job.end) for job in profile.jobs]


def test_a_markdown_cv_with_headings() -> None:
    found = profile_in(cvs.HEADINGS_MD)
    assert (found.name, found.headline, found.place) == ("Ana Ruiz Ferrer", "Senior data engineer", "Porto, Portugal")
    assert (found.email, found.phone) == ("ana.ruiz@kettle-mail.pt", "+351 912 555 017")
    assert found.links == ("github.com/anaruizf",)
    assert found.about == "I build pipelines that people can still read a year later. Before that I taught maths."
    assert jobs(found) == [
        ("Senior Data Engineer", "Lumen Maps", "March 2021", ""),
        ("Data Engineer", "Bricklane Analytics", "2018", "2021"),
        ("Maths Teacher", "Escola Secundária do Bolhão", "2014", "2018"),
    ]
    assert found.schools == (
        School("MSc Statistics", "University of Porto", "2014", "2014"),
        School("BSc Mathematics", "University of Minho", "2012", "2012"),
    )
    assert found.projects == (
        Project("Tidemark", "tells surfers in a text message when the tide turns."),
        Project("paper-boats", "a game about rivers, written in Rust."),
    )
    assert found.skills == ("Python", "SQL", "Rust", "Airflow", "dbt", "PostgreSQL")
    assert found.languages == (
        Language("Portuguese", "native"),
        Language("Spanish", "C1"),
        Language("English", "fluent"),
    )
    assert found.interests == ("Surfing", "choir", "baking bread")
    assert found.unsure == (), "what was done in a job is none of it"
    assert found.left_out, "but it is told"


def test_a_plain_cv_with_columns_of_dates() -> None:
    found = profile_in(cvs.COLUMNS_TXT)
    assert (found.name, found.headline, found.place) == ("Jonas Weber", "Electrician and site supervisor", "Cologne")
    assert found.phone == "0221 555 0147"
    assert jobs(found) == [
        ("Site supervisor", "Rheinstrom GmbH", "2019", ""),
        ("Electrician", "Elektro Hansen", "2012", "2019"),
        ("Apprentice electrician", "Elektro Hansen", "2009", "2012"),
    ]
    assert [(school.degree, school.school) for school in found.schools] == [
        ("Master craftsman certificate", ""),
        ("Abitur", "Schiller Gymnasium"),
    ]
    assert found.languages == (Language("German", "native"), Language("English", "B2"), Language("Turkish", "basic"))
    assert "Driving licence B and C1E" in found.skills


def test_a_german_cv_with_dates_above_the_role() -> None:
    found = profile_in(cvs.GERMAN_TXT)
    assert (found.name, found.place, found.phone) == ("Miriam Öztürk", "Leipzig", "+49 341 5550123")
    assert jobs(found) == [
        ("Leiterin der Qualitätssicherung", "Sachsenmilch AG", "04/2020", ""),
        ("Lebensmittelchemikerin", "Landeslabor Berlin-Brandenburg", "09/2015", "03/2020"),
    ]
    assert [school.school for school in found.schools] == ["Technische Universität Dresden", "Universität Leipzig"]
    assert found.languages[1] == Language("Türkisch", "fließend")


def test_a_cv_with_the_employer_first_and_the_role_below() -> None:
    found = profile_in(cvs.EMPLOYER_FIRST_TXT)
    assert (found.name, found.place) == ("Grace O'Malley-Byrne", "Galway, Ireland")
    assert jobs(found) == [
        ("Clinical Nurse Manager", "University Hospital Galway", "Jan 2017", ""),
        ("Staff Nurse", "St. Brendan's Hospital", "Sept 2011", "Dec 2016"),
        ("Volunteer", "Sailing into Wellness", "2019", "2021"),
    ]
    assert found.schools == (School("BSc Nursing Studies", "NUI Galway College of Nursing", "2007", "2011"),)
    assert found.skills == ("Triage", "wound care", "phlebotomy", "teaching")


def test_a_cv_with_bars_and_short_years() -> None:
    found = profile_in(cvs.PIPES_MD)
    assert (found.name, found.place, found.links) == ("Kwame Boateng", "Accra, Ghana", ("https://boateng.dev",))
    assert jobs(found) == [
        ("Freelance illustrator", "", "2020", ""),
        ("Art director", "Baobab Press", "2016", "2020"),
        ("Junior designer", "Kente Studio", "2014", "2016"),
    ]
    assert [project.name for project in found.projects] == ["Anansi Retold", "Market Days"]
    assert [language.name for language in found.languages] == ["English", "Twi", "French"]


@pytest.mark.parametrize(
    ("name", "person", "expected"),
    [
        (
            "SPANISH_TXT", "María José García López",
            [("Jefa de proyecto", "Vientos del Norte S.L.", "Enero 2019", ""),
             ("Ingeniera de mantenimiento", "Eólica Cantábrica", "2013", "2018")],
        ),
        (
            "FRENCH_MD", "Chloé Dubois",
            [("Développeuse front-end", "Atelier Pixel", "2021", ""),
             ("Intégratrice web", "Agence Nord", "2018", "2021")],
        ),
        (
            # Columns of an exported page run into each other: the name stands in the middle and is not found.
            "EXPORT_TXT", "",
            [("Product Manager", "Quillon", "January 2022", ""),
             ("Associate Product Manager", "Brightfold", "June 2019", "December 2021")],
        ),
        (
            "ACADEMIC_TXT", "Samuel Okafor",
            [("Professor of Geology", "University of Ibadan", "2016", ""),
             ("Senior Lecturer", "University of Lagos", "2008", "2016"),
             ("Postdoctoral researcher", "ETH Zurich", "2004", "2008")],
        ),
        (
            "LABELS_TXT", "Li Wei",
            [("Warehouse supervisor", "Bluewave Logistics", "2017", "2020"),
             ("Driver", "Redline Couriers", "2014", "2017")],
        ),
    ],
)  # fmt: skip
def test_more_layouts_and_languages(name: str, person: str, expected: list[tuple[str, str, str, str]]) -> None:
    found = profile_in(getattr(cvs, name))
    assert found.name == person
    assert jobs(found) == expected
    assert found.unsure == ()


def test_schools_and_languages_of_them() -> None:
    assert profile_in(cvs.EXPORT_TXT).schools == (
        School("Master of Science", "Imperial College London", "2018", "2019"),
    )
    assert [(one.name, one.level) for one in profile_in(cvs.EXPORT_TXT).languages] == [
        ("English", "Native or Bilingual"), ("Tamil", "Native or Bilingual"),
    ]  # fmt: skip
    assert [one.name for one in profile_in(cvs.ACADEMIC_TXT).languages] == ["English", "Igbo", "German"]
    assert profile_in(cvs.FRENCH_MD).languages[0] == Language("Français", "langue maternelle")


def of_word(text: str) -> str:
    """The paragraphs of a Word file that says `text`: tabs for columns, styles for Markdown's headings and lists."""
    out = []
    for line in text.split("\n"):
        heading = re.match(r"(#+) ", line)
        style = f'<w:pPr><w:pStyle w:val="Heading{len(heading[1])}"/></w:pPr>' if heading else ""
        words = re.sub(r"^#+ |\*\*", "", line)
        pieces = [f"<w:t>{html.escape(piece)}</w:t>" for piece in re.split(r"\s{2,}", words)]
        out.append(f"<w:p>{style}<w:r>{'<w:tab/>'.join(pieces)}</w:r></w:p>")
    return "".join(out)


@pytest.mark.parametrize("name", ["HEADINGS_MD", "COLUMNS_TXT", "GERMAN_TXT", "PIPES_MD"])
def test_the_same_cv_as_a_word_file_tells_the_same_jobs(tmp_path: Path, name: str) -> None:
    text = getattr(cvs, name)
    docx(tmp_path / "cv.docx", of_word(text))
    found, plain = read_profile(tmp_path / "cv.docx"), profile_in(text)
    assert (found.name, jobs(found), found.schools) == (plain.name, jobs(plain), plain.schools)
    assert found.languages == plain.languages


def test_a_pdf(tmp_path: Path) -> None:
    pdf(tmp_path / "cv.pdf", cvs.PDF_LINES)
    found = read_profile(tmp_path / "cv.pdf")
    assert (found.name, found.headline, found.place) == ("Mei-Ling Chow", "Pastry chef", "Vancouver, Canada")
    assert jobs(found) == [
        ("Head pastry chef", "Harbour Hotel", "2018", ""),
        ("Baker", "Granville Bakery", "2012", "2018"),
    ]
    assert found.schools == (School("Diploma in Pastry Arts", "Pacific Institute", "2012", "2012"),)
    assert found.languages == (Language("English", "fluent"), Language("Cantonese", "native"))


def test_html_and_another_encoding(tmp_path: Path) -> None:
    page = "<h1>Inés Peña</h1><h2>Experiencia</h2><p>Enfermera, Hospital Clínico, 2010 - 2015</p>"
    (tmp_path / "cv.html").write_text(page, encoding="utf-8")
    assert jobs(read_profile(tmp_path / "cv.html")) == [("Enfermera", "Hospital Clínico", "2010", "2015")]
    (tmp_path / "cv.txt").write_bytes(cvs.GERMAN_TXT.replace("–", "-").encode("cp1252"))
    assert read_profile(tmp_path / "cv.txt").name == "Miriam Öztürk"


def test_a_readme_is_about_a_project() -> None:
    found = profile_in(cvs.README_MD)
    assert found.projects == (Project("Tidemark", "tides in a text message."),)
    assert found.others == (
        "Tidemark watches tide tables and sends a text message an hour before the tide turns. "
        "It runs on a Raspberry Pi.",
        "Tidemark has these features: Works offline; Any harbour of the UK Hydrographic Office; Quiet hours.",
        "Tidemark is installed with: pip install tidemark",
        "Tidemark needs: Python 3.11 and a GSM stick.",
        "Tidemark is under the MIT licence.",
    )
    assert found.name == ""
    answers = {lesson.key: lesson.questions for lesson in lessons_of(found)}
    assert "How do I install Tidemark?" in answers["pip install tidemark"]


def test_the_readme_of_this_project_and_of_a_person() -> None:
    ours = profile_in((Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8"))
    assert ours.projects[0].name == "fledge"
    assert ours.projects[0].what.startswith("Raise a small language model")
    own = profile_in(cvs.OWN_PAGE_MD)
    assert own.name == "Tomasz Nowak"
    assert own.projects == (Project("a compiler for knitting patterns"),)
    assert own.others == ("I'm currently learning Rust and bobbin lace.", "My cat has her own repository.")


@pytest.mark.parametrize("name", [name for name in vars(cvs) if name.endswith(("_MD", "_TXT"))])
def test_nothing_is_made_up(name: str) -> None:
    """Every word that is found stands in the text; short years (2016-20) alone are written out."""
    text = getattr(cvs, name)
    said = {word.casefold() for word in re.findall(r"\w+", text.replace("’", "'"))}
    profile = profile_in(text)
    parts = [
        *(
            vars(thing).values()
            for kind in ("jobs", "schools", "projects", "languages")
            for thing in getattr(profile, kind)
        )
    ]
    texts = [
        profile.name,
        profile.place,
        profile.about,
        *profile.skills,
        *profile.interests,
        *(t for p in parts for t in p),
    ]
    words = {word.casefold() for t in texts for word in re.findall(r"\w+", t)}
    assert words - said <= {"2020", "2016"}


def test_what_cannot_be_told_apart_is_told_and_not_used() -> None:
    found = profile_in("Jo Doe\n\nExperience\n\nSunrise, Moonlight, 2010 - 2012\nCook, Blue Door, 2012 - 2014\n")
    assert jobs(found) == [("Cook", "Blue Door", "2012", "2014")]
    assert found.unsure == ("Sunrise, Moonlight",)
    only_place = profile_in("Jo Doe\n\nExperience\n\nCity Hospital, Dublin   2010 - 2012\n")
    assert jobs(only_place) == [("", "City Hospital", "2010", "2012")], "a place is no role"


@pytest.mark.parametrize("line", ["Born 12.03.1987", "2009 - 2012", "Flat 12 (3-4) 5", "1987-03-12"])
def test_what_is_no_phone_number(line: str) -> None:
    assert profile_in(f"Jo Doe\n{line}\n\nSkills\nbaking\n").phone == ""


def test_a_role_or_a_heading_is_no_name() -> None:
    assert profile_in("Software Engineer\nBerlin\n\nSkills\nGo\n").name == ""
    assert profile_in("Curriculum Vitae\nSALES MANAGER\n\nSkills\nGo\n").name == ""


def test_what_is_no_cv_is_refused(tmp_path: Path) -> None:
    for name, content, code in [
        ("poem.txt", b"The wind is in the reeds tonight,\nand nobody is home.\n", "data.empty"),
        ("empty.md", b"  \n", "data.empty"),
        ("rows.csv", b"question,answer\na,b\n", "data.unknown_format"),
        ("cv.pdf", b"%PDF-1.4\nbroken", "data.bad_row"),
        ("cv.docx", b"PK\x03\x04broken", "data.bad_row"),
    ]:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError) as caught:
            read_profile(tmp_path / name)
        assert caught.value.code == code, name
        assert "\n" not in str(caught.value)
    pdf(tmp_path / "scan.pdf", [])
    with pytest.raises(DataError, match="pictures of pages"):
        read_profile(tmp_path / "scan.pdf")
    with pytest.raises(DataError, match="did you mean 'poem.txt'"):
        read_profile(tmp_path / "peom.txt")


@pytest.mark.parametrize(
    ("line", "start", "end", "rest"),
    [
        ("2019 - 2021", "2019", "2021", ""),
        ("Cook (Mar. 2019 – present), Lima", "Mar. 2019", "", "Cook  , Lima"),
        ("03/2018 to 05/2020 | Cook", "03/2018", "05/2020", "Cook"),
        ("2019-03 - 2021-05 Cook", "2019-03", "2021-05", "Cook"),
        ("Cook, since June 2020", "June 2020", "", "Cook"),
        ("seit 2020: Köchin", "2020", "", "Köchin"),
        ("Cook 2010-12", "2010", "2012", "Cook"),
        ("enero de 2015 a marzo de 2016", "enero de 2015", "marzo de 2016", ""),
        ("2019 -", "2019", "", ""),
        ("Diploma, 2012", "2012", "2012", "Diploma"),
    ],
)
def test_spans_of_time(line: str, start: str, end: str, rest: str) -> None:
    span = find_span(line)
    assert span is not None
    assert (span.start, span.end, re.sub(r"\s+", " ", span.rest)) == (start, end, re.sub(r"\s+", " ", rest))


@pytest.mark.parametrize(
    "line", ["Runs a ward of 28 beds", "tel. 0221 2019201", "https://x.example/2019a", "12.5 percent"]
)
def test_what_is_no_date(line: str) -> None:
    assert find_span(line) is None


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet=st.sampled_from("aA1 \n\t-–|,:.#*•@()2019éß"), max_size=400))
def test_no_text_breaks_it(text: str) -> None:
    headings = ("Experience", "Education", "Skills", "Languages", "Projects")
    profile = profile_in("\n".join(f"{heading}\n{text}" for heading in headings))
    assert sum(found_in(profile).values()) >= 0
    for lesson in lessons_of(profile):
        assert lesson.key in lesson.answer


def test_nothing_is_dropped_without_a_word() -> None:
    text = """Ingrid Solberg
Marine Biologist

Experience
Marine Biologist, Kelp Institute, 2019 - present
- Led the kelp forest monitoring programme across 14 fjords

Awards
Golden Urchin of the Nordic Diving Society

Skills
R, Python
"""
    found = profile_in(text)
    assert found.left_out == (
        "Led the kelp forest monitoring programme across 14 fjords",
        "Golden Urchin of the Nordic Diving Society",
    )


GERMAN = """Lebenslauf
Name: Jürgen Müller
Geburtsdatum: 12.03.1985
{label}: {address}
Telefon: 0171 2345678

Berufserfahrung
09/2010 – 02/2015   Entwickler bei Siemens AG

Hobbys
Wandern
"""


@pytest.mark.parametrize(
    ("label", "address", "place"),
    [
        ("Anschrift", "Hauptstr. 5, 80331 München", "München"),
        ("Adresse", "12 rue de la Paix, 75002 Paris", "Paris"),
        ("Wohnort", "Hamburg", "Hamburg"),
        ("Address", "12 Elm Street, Springfield, IL 62704", "Springfield"),
        ("Address", "221 Baker Street, London NW1 6XE", "London"),
        ("Dirección", "Calle Mayor 5, 28013 Madrid", "Madrid"),
        ("Address", "12 Elm Street", ""),
    ],
)
def test_of_an_address_only_the_town_is_a_fact(label: str, address: str, place: str) -> None:
    """Street and number became "I live in Hauptstr. 5, 80331 München." in five rows."""
    found = profile_in(GERMAN.format(label=label, address=address))
    assert (found.place, found.interests) == (place, ("Wandern",))
    said = " ".join(lesson.answer for lesson in lessons_of(found))
    assert place in said and not re.search(r"\b(?:5|3|12|221|80331|28013|0171)\b|Elm|Mayor|Hauptstr", said)
    assert "Geburtsdatum: 12.03.1985" in found.left_out
    assert not any("Telefon" in line for line in found.left_out)


def test_languages_that_machines_speak_are_skills_and_what_no_rule_reads_is_told() -> None:
    found = profile_in(
        "Ana Ruiz\nSoftware developer, Oslo\nana@kettle-mail.pt\n\nSKILLS\nLanguages: C, C++, Rust\nTools: Git, JTAG\n"
        "\nLANGUAGES\nPortuguese (native), German (B1)\n\nPUBLICATIONS\nRuiz A. FOC with Git and C, IEEE 2016\n"
    )
    assert found.skills == ("C", "C++", "Rust", "Git", "JTAG")
    assert [one.name for one in found.languages] == ["Portuguese", "German"]
    assert found.left_out == ("Ruiz A. FOC with Git and C, IEEE 2016",)
    [said] = [lesson.answer for lesson in lessons_of(found) if lesson.group == "headline"]
    assert said == "What I do: Software developer, Oslo."


def test_a_text_that_is_no_cv_is_refused(tmp_path: Path) -> None:
    """A play gave a persona called First Citizen, who lives in No, Caius Marcius."""
    play = tmp_path / "play.txt"
    play.write_text("First Citizen:\nBefore we proceed any further, hear me speak.\n\nAll:\nSpeak, speak.\n" * 20)
    with pytest.raises(DataError, match="nothing in it reads like a CV or a README"):
        read_profile(play)
