"""Every error a user can meet, as one drawn tree.

* FledgeError            one clear line: where: what was found; what was expected. What to do.   (exit 2)
  + ConfigError          fledge.yaml, a knob on the command line, an option
  + DataError            a row, a file of rows; collects all findings and raises once
  + ModelError           base model: unknown name, broken file, unsupported architecture
    - PullError          fetching it: no network, wrong sha256, no source left
  + RunError             run folders and checkpoints
  + TrainError           a run that must not go on: nothing taught, non-finite loss
  + ExportError          merge, GGUF, quantise
    - ParityError        the exported file does not answer as the trained weights do          (exit 1)
  + TeacherError         who is asked for rows does not give them
  + RewardError          a reward that gives no number, or a file that holds none
  + EngineError          the llama.cpp worker: would not start, died, answered with an error
  + SetupError           a part of fledge that is not installed, or a machine that cannot do it
    - DiskError          no room left, no permission

To add one: raise an existing class with a new code, put the code in CODES and a section in docs/errors.md (a test
compares the two). A new class only where somebody must catch it apart from its siblings.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

CODES: dict[str, str] = {
    "config.unknown_key": "a key in fledge.yaml or on the command line that fledge does not know",
    "config.bad_value": "a knob with a value outside what it takes",
    "config.not_a_project": "the folder holds no fledge.yaml",
    "config.bad_yaml": "fledge.yaml cannot be read as YAML",
    "config.exists": "a file or folder that would be overwritten",
    "data.not_found": "a path that does not exist",
    "data.empty": "a file without a single row",
    "data.bad_row": "a row that cannot be read or lacks what its form needs",
    "data.unknown_format": "a row shape that fledge does not recognise",
    "data.bad_encoding": "bytes that are no text in the encoding found",
    "data.too_long": "a row that is longer than train.max_tokens",
    "data.nothing_taught": "a row, or all rows, without a single taught token",
    "data.other_objective": "rows from which another objective learns",
    "data.template": "the model's chat template refused a conversation",
    "data.cut_answer": "an answer that seems to be cut off",
    "data.language": "a row in another language than the others",
    "data.mojibake": "letters that were read in the wrong encoding",
    "data.off_template": "an answer without the form that answers must have, or that the others have",
    "data.duplicate": "a row that stands there already",
    "data.near_duplicate": "a row that says nearly the same as another",
    "data.contradiction": "one question with different answers",
    "data.leak": "a row held out to measure with that is learnt too",
    "data.personal": "personal data",
    "data.secret": "a password, key or token",
    "data.leftover": "a placeholder that nobody filled in",
    "data.control_text": "marks of a chat template or labels of speakers inside a turn",
    "data.markup": "HTML in an answer",
    "data.imbalance": "classes of which one is rare",
    "data.licence": "what the files beside the data say of its licence",
    "data.busy": "an output that another run is writing",
    "teacher.unreachable": "a teacher that does not answer at all",
    "teacher.refused": "a teacher that refuses requests: key, model, or what was asked",
    "teacher.failed": "a teacher that breaks off, or says nothing",
    "reward.broken": "a file of rewards that cannot be loaded or holds none",
    "reward.failed": "a reward that gives no finite number for a reply",
    "reward.never_varies": "a reward that gives every reply to a prompt the same",
    "model.unknown": "a model name that is neither in the catalog nor a path",
    "model.no_source": "no source of the model could be reached",
    "model.bad_hash": "a file whose sha256 is not the one in the catalog",
    "model.broken_file": "a model file that is damaged or not what its name says",
    "model.unsupported": "an architecture or tokenizer that fledge cannot load or write yet",
    "model.bad_adapter": "an adapter that does not fit the base model",
    "run.not_found": "a run that does not exist",
    "run.not_resumable": "a run without a usable checkpoint, or whose inputs have changed",
    "run.busy": "a run that another process is training",
    "train.non_finite": "the loss or a gradient became NaN or infinite",
    "train.memory": "a run that does not fit into the memory it may take",
    "train.no_gradient": "an adapter matrix that got no gradient",
    "export.unknown_type": "a quantisation type that fledge does not write",
    "export.non_finite": "a weight that is not finite or too large for the type it is written in",
    "export.parity": "the exported file does not answer as the trained weights do",
    "engine.start": "the llama.cpp worker did not start",
    "engine.died": "the llama.cpp worker died while working",
    "engine.request": "the llama.cpp worker refused a request",
    "setup.missing_extra": "a part of fledge that is not installed",
    "setup.disk": "no room left on the disk, or no permission to write",
}


class FledgeError(Exception):
    """One line for the user. `code` is a key of CODES, `where` a file:line or a place, `remedy` what to do."""

    exit_code = 2

    def __init__(self, code: str, message: str, *, where: str = "", remedy: str = "") -> None:
        assert code in CODES, f"error code {code!r} is not in errors.CODES"
        self.code, self.message, self.where, self.remedy = code, message, where, remedy
        super().__init__(str(self))

    def __str__(self) -> str:
        place = f"{self.where}: " if self.where else ""
        remedy = f" {self.remedy}" if self.remedy else ""
        return f"{place}{self.message}{remedy}"

    def as_dict(self) -> dict[str, str]:
        """Return the four fields of the contract's JSON error object."""
        return {"code": self.code, "message": self.message, "where": self.where, "remedy": self.remedy}


class ConfigError(FledgeError, ValueError): ...


class Severity(StrEnum):
    ERROR = "error"
    WARNING = "warning"
    # Worth knowing; nothing to mend.
    NOTE = "note"


@dataclass(frozen=True)
class Finding:
    """Something a check found in the user's data: what, where, what to do. `code` is a key of CODES."""

    code: str
    where: str
    message: str
    remedy: str
    severity: Severity = Severity.ERROR

    def __str__(self) -> str:
        return f"{self.where}: {self.message} {self.remedy}".strip()


class DataError(FledgeError, ValueError):
    # Where the first of several problems is; their text names the places of all that it tells.
    first = ""

    def as_dict(self) -> dict[str, str]:
        return super().as_dict() | {"where": self.where or self.first}

    @classmethod
    def from_findings(cls, findings: Sequence[Finding], *, shown: int = 5) -> DataError:
        """Return one error that tells the first few findings in full and counts the rest."""
        first = findings[0]
        if len(findings) == 1:
            return cls(first.code, first.message, where=first.where, remedy=first.remedy)
        lines = [str(f) for f in findings[:shown]]
        if len(findings) > shown:
            lines.append(f"... and {len(findings) - shown} more like these.")
        error = cls(first.code, f"{len(findings)} problems.\n" + "\n".join(lines), remedy="")
        error.first = first.where
        return error


class ModelError(FledgeError, ValueError): ...


class PullError(ModelError): ...


class RunError(FledgeError, ValueError): ...


class TrainError(FledgeError, RuntimeError): ...


class ExportError(FledgeError, ValueError): ...


class ParityError(ExportError):
    exit_code = 1


class TeacherError(FledgeError, RuntimeError): ...


class RewardError(FledgeError, RuntimeError): ...


class EngineError(FledgeError, RuntimeError): ...


class SetupError(FledgeError, RuntimeError): ...


class DiskError(SetupError, OSError):
    # OSError.__str__ would print an errno tuple; the line for the user is ours.
    __str__ = FledgeError.__str__


DISK_ERRNOS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EROFS, errno.EPERM}


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn a full disk or a missing permission inside the block into one DiskError that names `path`."""
    try:
        yield
    except OSError as error:
        if isinstance(error, FledgeError) or error.errno not in DISK_ERRNOS:
            raise
        raise DiskError(
            "setup.disk",
            f"cannot write: {error.strerror}.",
            where=str(path),
            remedy="Free some room or choose another folder, then run the command again; nothing was half-written.",
        ) from error


def nearest(word: str, known: Sequence[str]) -> str:
    """Return "; did you mean 'x'?" for the known word closest to `word`, or "" when none is close."""
    import difflib  # only on the way to an error

    close = difflib.get_close_matches(word.lower(), [k.lower() for k in known], n=1, cutoff=0.5)
    by_lower = {k.lower(): k for k in known}
    return f"; did you mean '{by_lower[close[0]]}'?" if close else ""
