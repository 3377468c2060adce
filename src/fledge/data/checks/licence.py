"""What the files beside the data say about its licence."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_FILES = re.compile(r"(?:LICEN[CS]E|COPYING|SOURCE|NOTICE|README|DATASHEET|dataset_?card)\b.*", re.IGNORECASE)
_MAX_BYTES = 1 << 16
# From the most telling to the least; the first that stands in a text names it.
LICENCES = {
    # Its text speaks of the GPL too.
    "PSF-2.0": r"PYTHON SOFTWARE FOUNDATION LICENSE|\bPSF\b",
    "CC-BY-NC-SA-4.0": r"CC[ -]BY[ -]NC[ -]SA|Attribution-NonCommercial-ShareAlike",
    "CC-BY-NC-ND-4.0": r"CC[ -]BY[ -]NC[ -]ND|Attribution-NonCommercial-NoDeriv",
    "CC-BY-NC-4.0": r"CC[ -]BY[ -]NC|Attribution-NonCommercial",
    "CC-BY-ND-4.0": r"CC[ -]BY[ -]ND|Attribution-NoDeriv",
    "CC-BY-SA-4.0": r"CC[ -]BY[ -]SA|Attribution-ShareAlike",
    "CC0-1.0": r"\bCC0\b|CC0 1\.0|public domain dedication",
    "CC-BY-4.0": r"CC[ -]BY\b|Creative Commons Attribution",
    "Apache-2.0": r"Apache[ -]?(?:License,? )?(?:Version )?2\.0|Apache License",
    "MIT": r"\bMIT\b|Permission is hereby granted, free of charge, to any person",
    "BSD": r"\bBSD\b|Redistribution and use in source and binary forms",
    "AGPL-3.0": r"AGPL|GNU AFFERO",
    "LGPL": r"\bLGPL|GNU LESSER",
    "GPL": r"\bGPL\b|GNU GENERAL PUBLIC LICENSE",
    "ODC-BY": r"ODC[ -]BY|Open Data Commons Attribution",
    "ODbL": r"\bODbL\b|Open Database Licen",
    "CDLA": r"\bCDLA\b|Community Data License",
    "public domain": r"public domain",
    "all rights reserved": r"all rights reserved",
}  # fmt: skip
_CARD = re.compile(r"^licen[cs]e: *[\"']?([\w.+-]+)", re.MULTILINE | re.IGNORECASE)
_SAID = re.compile(r"^\W*licen[cs]e\W+(.+)$", re.MULTILINE | re.IGNORECASE)


@dataclass(frozen=True)
class Licence:
    """What one file says; `name` is "" where it names no known licence."""

    file: str
    name: str

    @property
    def restricts(self) -> str:
        """What the licence forbids that people often want, in words, or ""."""
        if "NC" in self.name:
            return "forbids commercial use"
        if "-ND" in self.name:
            return "forbids changed versions, which a model trained on it may be"
        return "allows nothing without asking" if self.name == "all rights reserved" else ""


def find_licences(paths: Sequence[Path]) -> list[Licence]:
    """Return what is said in the folders that hold `paths`, licence files first; one entry a file."""
    folders = dict.fromkeys(path.resolve() if path.is_dir() else path.resolve().parent for path in paths)
    files = sorted(
        (file for folder in folders for file in folder.iterdir() if file.is_file() and _FILES.fullmatch(file.name)),
        key=lambda file: (not file.name.upper().startswith(("LICEN", "COPYING")), file.name),
    )
    found = [Licence(str(file), _name(_read(file))) for file in files]
    # A README that says nothing of a licence is none.
    return [one for one in found if one.name or Path(one.file).name.upper().startswith(("LICEN", "COPYING"))]


def _read(file: Path) -> str:
    with file.open("rb") as opened:
        return opened.read(_MAX_BYTES).decode("utf-8", errors="replace")


def _name(text: str) -> str:
    if (card := _CARD.search(text)) is not None:
        told = next((name for name, regex in LICENCES.items() if re.search(regex, card[1].replace("_", "-"), re.I)), "")
        return told or card[1]
    if (said := _SAID.search(text)) is not None:
        told = next((name for name, regex in LICENCES.items() if re.search(regex, said[1], re.IGNORECASE)), "")
        if told:
            return told
    return next((name for name, regex in LICENCES.items() if re.search(regex, text)), "")
