"""Errors are one clear line with a code; all findings are told, the first few in full."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from fledge.errors import (
    CODES,
    DataError,
    DiskError,
    Finding,
    FledgeError,
    ParityError,
    nearest,
    writing,
)


def test_the_line_and_the_json() -> None:
    error = FledgeError("data.empty", "no rows in it.", where="a.csv:3", remedy="Add one.")
    assert str(error) == "a.csv:3: no rows in it. Add one."
    assert error.as_dict() == {
        "code": "data.empty", "message": "no rows in it.", "where": "a.csv:3", "remedy": "Add one."
    }  # fmt: skip
    assert str(FledgeError("data.empty", "no rows.")) == "no rows."
    assert (FledgeError.exit_code, ParityError.exit_code) == (2, 1)


def test_a_code_that_is_not_listed_is_a_fault_of_ours() -> None:
    assert all("." in code and meaning for code, meaning in CODES.items())
    with pytest.raises(AssertionError, match=r"data\.nonsense"):
        FledgeError("data.nonsense", "x")


def test_findings_are_told_in_full_and_then_counted() -> None:
    findings = [Finding("data.bad_row", f"a:{n}", "broken.", "Mend it.") for n in range(7)]
    assert str(DataError.from_findings(findings[:1])) == "a:0: broken. Mend it."
    lines = str(DataError.from_findings(findings)).splitlines()
    assert lines == ["7 problems.", *(f"a:{n}: broken. Mend it." for n in range(5)), "... and 2 more like these."]


def test_the_nearest_word() -> None:
    assert nearest("EPOCH", ["Epochs", "lr"]) == "; did you mean 'Epochs'?"
    assert nearest("zzz", ["epochs"]) == nearest("x", []) == ""


def test_disk_faults_become_one_line_and_others_stay_what_they_are() -> None:
    for number in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EFBIG, errno.EROFS):
        with pytest.raises(DiskError, match="^here: cannot write: ") as caught, writing(Path("here")):
            raise OSError(number, "words")
        assert isinstance(caught.value, OSError)
        with pytest.raises(DiskError, match="^here: "), writing(Path("there")), writing(Path("here")):
            raise OSError(number, "words")
    with pytest.raises(FileNotFoundError), writing(Path("here")):
        raise FileNotFoundError(errno.ENOENT, "words")
