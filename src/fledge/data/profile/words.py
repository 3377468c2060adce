"""Words that tell a role from an employer, a degree from a school, a name from what stands beside it."""

from __future__ import annotations

import re

_ROLES = (
    "engineer|developer|programmer|manager|director|analyst|consultant|teacher|tutor|lecturer|professor|researcher"
    "|scientist|assistant|intern|internship|trainee|apprentice|nurse|midwife|doctor|physician|surgeon|dentist"
    "|designer|architect|administrator|officer|lead|head|chief|ceo|cto|cfo|coo|founder|co-founder|cofounder|owner"
    "|editor|writer|journalist|author|translator|interpreter|accountant|bookkeeper|clerk|secretary|cook|chef|waiter"
    "|waitress|bartender|barista|driver|mechanic|electrician|carpenter|plumber|technician|operator|salesperson"
    "|sales|representative|specialist|coordinator|co-ordinator|supervisor|librarian|photographer|musician|artist"
    "|producer|pharmacist|therapist|physiotherapist|psychologist|lawyer|attorney|paralegal|solicitor|fellow|postdoc"
    "|volunteer|cashier|receptionist|planner|buyer|agent|advisor|adviser|captain|pilot|baker|gardener|farmer"
    "|caretaker|carer|foreman|freelancer|freelance|contractor|partner|president|associate|instructor|trainer|coach"
    "|curator|conservator|restorer|luthier|economist|statistician|biologist|chemist|physicist|geologist|strategist"
    "|marketer|recruiter|auditor|inspector|surveyor|tester|devops|sysadmin|webmaster|illustrator|animator"
    "|copywriter|proofreader|entwickler|ingenieur|leiter|lehrer|berater|werkstudent|praktikant|praktikum"
    "|krankenpfleger|krankenschwester|kaufmann|kauffrau|verkäufer|koch|assistent|assistenz|sachbearbeiter"
    "|geschäftsführer|techniker|mitarbeiter|dozent|erzieher|tischler|schreiner|ingeniero|ingeniera|desarrollador"
    "|desarrolladora|profesor|profesora|gerente|analista|enfermero|enfermera|jefe|jefa|camarero|camarera|becario"
    "|becaria|técnico|técnica|médico|médica|directora|responsable|auxiliar|dependiente|ingénieur|ingénieure"
    "|développeur|développeuse|professeur|directeur|directrice|chargé|chargée|infirmier|infirmière|stagiaire"
    "|technicien|technicienne|vendeur|vendeuse|enseignant|enseignante|redakteur|redakteurin|arzt|ärztin|erzieherin"
    "|beekeeper|potter"
)
_EMPLOYERS = (
    "inc|ltd|llc|plc|gmbh|ag|kg|ug|sarl|sas|bv|nv|ab|oy|aps|spa|corp|corporation|company|co|group|labs|lab|studio"
    "|studios|university|universität|universidad|université|universidade|college|school|schule|escuela|école"
    "|academy|hospital|klinik|klinikum|clinic|clínica|bank|institute|institut|instituto|agency|agentur|ministry"
    "|museum|foundation|stiftung|hotel|restaurant|café|cafe|bakery|bäckerei|library|council|systems|software"
    "|solutions|technologies|technology|partners|consulting|media|airlines|press|verlag|werke|theatre|theater"
    "|orchestra|pharmacy|surgery|practice|logistics|industries|holdings|ventures|collective|cooperative|association"
    "|verein|charity|church|city|stadt|office|workshop|shop|store"
)
_DEGREES = (
    "bsc|b.sc|msc|m.sc|ba|b.a|ma|m.a|bachelor|bachelor's|bachelors|master|master's|masters|phd|ph.d|doctorate"
    "|doctor|mba|diploma|diplom|abitur|a-levels|a-level|gcse|degree|certificate|licence|licenciatura|grado|máster"
    "|bachillerato|doctorado|baccalauréat|ausbildung|apprenticeship|promotion|staatsexamen|beng|b.eng|meng|m.eng"
    "|bfa|mfa|llb|llm|associate|honours|minor|major"
)
_SCHOOLS = (
    "university|universität|universidad|université|universidade|universiteit|college|school|schule|hochschule"
    "|fachhochschule|gymnasium|realschule|berufsschule|escuela|école|lycée|academy|akademie|institute|institut"
    "|instituto|polytechnic|eth|mit|tu|conservatory|seminary|faculty|facultad|faculté"
)
# German roles are one word with what they are for, and have a form for women: Lebensmittelchemikerin, Entwickler:in.
_GERMAN = r"[\w-]*(?:entwickler|ingenieur|leiter|lehrer|berater|pfleger|chemiker|physiker|informatiker|meister|helfer)"


def _any_of(words: str) -> re.Pattern[str]:
    longest_first = sorted(words.split("|"), key=lambda word: -len(word))
    body = "|".join(map(re.escape, longest_first))
    return re.compile(rf"(?<![\w.])(?:{_GERMAN}|{body})(?:[:*/]?in|s)?(?!\w)", re.IGNORECASE)


def _only(words: str) -> re.Pattern[str]:
    body = "|".join(map(re.escape, sorted(words.split("|"), key=lambda word: -len(word))))
    return re.compile(rf"(?<![\w.])(?:{body})(?!\w)", re.IGNORECASE)


ROLE = _any_of(_ROLES)
EMPLOYER, DEGREE, SCHOOL = map(_only, (_EMPLOYERS, _DEGREES, _SCHOOLS))
LEVEL = re.compile(
    r"\b(?:native or bilingual(?: proficiency)?|(?:full|limited|elementary) (?:professional |working )?proficiency"
    r"|native(?: speaker)?|mother tongue|bilingual|fluent|fluently|proficient|advanced|upper[- ]intermediate"
    r"|intermediate|basic|basics|beginner|elementary|conversational|professional(?: working)?(?: proficiency)?|good"
    r"|very good|excellent|[abc][12]\+?|muttersprache|fließend|verhandlungssicher|grundkenntnisse|gut|sehr gut|nativo"
    r"|nativa|fluido|avanzado|intermedio|básico|langue maternelle|courant|intermédiaire|notions)\b",
    re.IGNORECASE,
)
# A name's little words, and the titles before it.
PARTICLES = frozenset(
    ("de", "da", "do", "dos", "das", "di", "del", "della", "der", "den", "van", "von", "zu", "la", "le", "y", "e", "al")
    + ("bin", "ibn", "ben", "af", "av", "ter", "ten")
)
TITLES = re.compile(r"^(?:(?:dr|prof|mr|mrs|ms|mx|herr|frau|sr|sra|ing|dipl)\.?(?:-\w+\.?)?\s+)+", re.IGNORECASE)
PAPER = re.compile(
    r"^(?:curriculum vitae|curriculum|resume|résumé|cv|lebenslauf|hoja de vida)\b\s*(?:of|von|de|[:|–—-])?\s*",
    re.IGNORECASE,
)
LANGUAGE = re.compile(
    r"(?:"
    r"english|german|french|spanish|portuguese|italian|dutch|flemish|swedish|norwegian|danish|finnish|icelandic"
    r"|polish|czech|slovak|slovene|slovenian|croatian|serbian|bosnian|macedonian|bulgarian|romanian|hungarian"
    r"|greek|turkish|russian|ukrainian|belarusian|lithuanian|latvian|estonian|albanian|armenian|georgian"
    r"|azerbaijani|kazakh|uzbek|persian|farsi|dari|pashto|kurdish|arabic|hebrew|amharic|somali|swahili|hausa"
    r"|yoruba|igbo|twi|akan|wolof|zulu|xhosa|afrikaans|shona|hindi|urdu|bengali|punjabi|gujarati|marathi|tamil"
    r"|telugu|kannada|malayalam|sinhala|nepali|thai|lao|khmer|burmese|vietnamese|indonesian|malay|tagalog|filipino"
    r"|chinese|mandarin|cantonese|japanese|korean|mongolian|latin|esperanto|irish|welsh|scottish|catalan|galician"
    r"|basque|euskera|breton|maltese|luxembourgish|deutsch|englisch|französisch|spanisch|italienisch|portugiesisch"
    r"|türkisch|polnisch|russisch|arabisch|niederländisch|español|inglés|francés|alemán|italiano|portugués|catalán"
    r"|gallego|árabe|chino|français|anglais|espagnol|allemand|italien|portugais|arabe|néerlandais|chinois|japonais"
    r"|sign language)",
    re.IGNORECASE,
)
