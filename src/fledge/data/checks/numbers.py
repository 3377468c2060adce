"""Check digits: whether a number can be what it looks like. Each takes the number as it is written."""

from __future__ import annotations

import re
from datetime import date

# Lengths of the IBAN registry (SWIFT), by country.
IBAN_LENGTHS = {
    "AD": 24, "AE": 23, "AL": 28, "AT": 20, "AZ": 28, "BA": 20, "BE": 16, "BG": 22, "BH": 22, "BR": 29, "BY": 28,
    "CH": 21, "CR": 22, "CY": 28, "CZ": 24, "DE": 22, "DK": 18, "DO": 28, "EE": 20, "EG": 29, "ES": 24, "FI": 18,
    "FO": 18, "FR": 27, "GB": 22, "GE": 22, "GI": 23, "GL": 18, "GR": 27, "GT": 28, "HR": 21, "HU": 28, "IE": 22,
    "IL": 23, "IQ": 23, "IS": 26, "IT": 27, "JO": 30, "KW": 30, "KZ": 20, "LB": 28, "LC": 32, "LI": 21, "LT": 20,
    "LU": 20, "LV": 21, "LY": 25, "MC": 27, "MD": 24, "ME": 22, "MK": 19, "MR": 27, "MT": 31, "MU": 30, "NL": 18,
    "NO": 15, "PK": 24, "PL": 28, "PS": 29, "PT": 25, "QA": 29, "RO": 24, "RS": 22, "SA": 24, "SC": 31, "SE": 24,
    "SI": 19, "SK": 24, "SM": 27, "ST": 25, "SV": 28, "TL": 23, "TN": 24, "TR": 26, "UA": 29, "VA": 22, "VG": 24,
    "XK": 20,
}  # fmt: skip
# First digits of the card networks (ISO/IEC 7812) and the lengths that they issue.
_NETWORKS = re.compile(
    r"4\d{12}(?:\d{3})?(?:\d{3})?|5[1-5]\d{14}|2[2-7]\d{14}|3[47]\d{13}|3(?:0[0-5]|[68]\d)\d{11}|6(?:011|5\d\d|4[4-9]\d)\d{12}"
    r"|35\d{14}|62\d{14,17}"
)
_DNI = "TRWAGMYFPDXBNJZSQVHLCKE"
_FISCALE_ODD = dict(zip("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ",
    (1, 0, 5, 7, 9, 13, 15, 17, 19, 21, 1, 0, 5, 7, 9, 13, 15, 17, 19, 21, 2, 4, 18, 20, 11, 3, 6, 8, 12, 14, 16, 10,
     22, 25, 24, 23), strict=True))  # fmt: skip


def _digits(text: str) -> str:
    return re.sub(r"\D", "", text)


def passes_luhn(digits: str) -> bool:
    """ISO/IEC 7812-1, annex B: every second digit from the right doubled, its own digits added."""
    doubled = [int(d) * (1 + place % 2) for place, d in enumerate(reversed(digits))]
    return sum(value - 9 * (value > 9) for value in doubled) % 10 == 0


def is_card(text: str) -> bool:
    digits = _digits(text)
    return _NETWORKS.fullmatch(digits) is not None and len(set(digits)) > 2 and passes_luhn(digits)


def is_iban(text: str) -> bool:
    """ISO 13616: the first four behind the rest, letters as 10..35, leaves 1 when divided by 97."""
    bare = text.replace(" ", "")
    if IBAN_LENGTHS.get(bare[:2]) != len(bare):
        return False
    return int("".join(str(int(character, 36)) for character in bare[4:] + bare[:4])) % 97 == 1


def is_dni(text: str) -> bool:
    """Spain's DNI and NIE: the number's rest by 23 names the letter."""
    bare = text.replace("-", "")
    number = bare[:-1].replace("X", "0").replace("Y", "1").replace("Z", "2")
    return _DNI[int(number) % 23] == bare[-1]


def is_codice_fiscale(text: str) -> bool:
    """Italy: odd and even places have their own values, their sum by 26 names the last letter."""
    values = [
        _FISCALE_ODD[c] if place % 2 == 0 else (int(c) if c.isdigit() else ord(c) - 65)
        for place, c in enumerate(text[:15])
    ]
    return chr(65 + sum(values) % 26) == text[15]


def is_cpf(text: str) -> bool:
    """Brazil: two check digits by eleven."""
    digits = [int(d) for d in _digits(text)]
    if len(set(digits)) == 1:
        return False
    for length in (9, 10):
        rest = sum(d * (length + 1 - place) for place, d in enumerate(digits[:length])) * 10 % 11 % 10
        if rest != digits[length]:
            return False
    return True


def is_nir(text: str) -> bool:
    """France's social security number: 97 less the rest of the first 13 digits by 97."""
    digits = _digits(text)
    return int(digits[13:]) == 97 - int(digits[:13]) % 97


def is_personnummer(text: str) -> bool:
    """Sweden: a date and a Luhn digit. Coordination numbers add 60 to the day."""
    digits = _digits(text)
    return _is_date(1900 + int(digits[:2]), int(digits[2:4]), int(digits[4:6]) % 60) and passes_luhn(digits)


def is_china_id(text: str) -> bool:
    """GB 11643: a date in it, and ISO 7064 MOD 11-2."""
    if not _is_date(int(text[6:10]), int(text[10:12]), int(text[12:14])) or not 1900 <= int(text[6:10]) <= 2100:
        return False
    rest = sum(int(d) * pow(2, 17 - place, 11) for place, d in enumerate(text[:17])) % 11
    return "10X98765432"[rest] == text[17]


def is_pesel(text: str) -> bool:
    """Poland: weights 1, 3, 7, 9 over all but the last digit."""
    total = sum(int(d) * (1, 3, 7, 9)[place % 4] for place, d in enumerate(text[:10]))
    return (10 - total % 10) % 10 == int(text[10])


def is_steuer_id(text: str) -> bool:
    """Germany's tax id: ISO 7064 MOD 11-10."""
    digits = _digits(text)
    product = 10
    for d in digits[:10]:
        product = ((int(d) + product) % 10 or 10) * 2 % 11
    return (11 - product) % 10 == int(digits[10]) and digits[0] != "0"


def _is_date(year: int, month: int, day: int) -> bool:
    try:
        date(year, month, day)
    except ValueError:
        return False
    return True
