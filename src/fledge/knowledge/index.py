"""Chunks in one SQLite file: words in an FTS5 table, meanings as vectors beside them.

Several processes may read while one writes (WAL); what one update changes is seen whole or not at all.
"""

from __future__ import annotations

import hashlib
import json
import re
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fledge.errors import DataError, DiskError, writing
from fledge.knowledge.chunk import Chunk, chunks_of, files_of

Vectors = npt.NDArray[np.float32]
Embed = Callable[[Sequence[str]], Vectors]

SCHEMA = """
CREATE TABLE IF NOT EXISTS about(name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS files(path TEXT PRIMARY KEY, sha256 TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS chunks(
  id INTEGER PRIMARY KEY, path TEXT NOT NULL, place TEXT NOT NULL, headings TEXT NOT NULL, text TEXT NOT NULL,
  vector BLOB
);
CREATE INDEX IF NOT EXISTS chunks_of_file ON chunks(path);
CREATE VIRTUAL TABLE IF NOT EXISTS words USING fts5(
  headings, text, content='chunks', content_rowid='id', tokenize="unicode61 remove_diacritics 2"
);
"""
# Words of a heading count as so many of the text.
HEADING_WEIGHT = 2.0
# A question of more words is a document.
MOST_WORDS = 64
EMBEDDED_AT_ONCE = 32
WAIT_S = 30.0
_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class Updated:
    """What an update found: files read anew, files that are gone, chunks in all, and what could not be read."""

    read: int
    removed: int
    chunks: int
    unreadable: tuple[str, ...]


class Index:
    """The chunks of one folder of documents. A context manager; `path` is made where it is not there."""

    def __init__(self, path: Path) -> None:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._database = sqlite3.connect(path, timeout=WAIT_S, isolation_level=None)
        self._database.execute("PRAGMA journal_mode=WAL")
        self._database.execute("PRAGMA synchronous=FULL")
        self._database.executescript(SCHEMA)
        self._held: tuple[list[int], Vectors] | None = None

    def __enter__(self) -> Index:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._database.close()

    def update(self, folder: Path, *, embed: Embed | None = None, embedder: str = "") -> Updated:
        """Bring the index up to what stands in `folder`: only files that changed are read again.

        embed: texts to one vector each, of `embedder`; vectors of another one are made anew. Raises DataError where the
        folder is not there.
        """
        if not folder.is_dir():
            raise DataError("data.not_found", "there is no such folder of documents.", where=str(folder))
        found = {str(path.relative_to(folder)): path for path in files_of(folder)}
        read, unreadable = 0, []
        with self._writing():
            known = dict(self._database.execute("SELECT path, sha256 FROM files"))
            for gone in sorted(known.keys() - found.keys()):
                self._forget(gone)
            for name, path in found.items():
                digest = hashlib.sha256(path.read_bytes()).hexdigest()
                if known.get(name) == digest:
                    continue
                self._forget(name)
                try:
                    chunks = list(chunks_of(path, folder))
                except DataError as error:
                    unreadable.append(str(error))
                    continue
                self._add(name, digest, chunks)
                read += 1
            if embed is not None:
                self._embed(embed, embedder)
            count = int(self._database.execute("SELECT count(*) FROM chunks").fetchone()[0])
        return Updated(read, len(known.keys() - found.keys()), count, tuple(unreadable))

    @contextmanager
    def _writing(self) -> Iterator[None]:
        self._held = None
        self._database.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._database.execute("COMMIT")
        except BaseException as error:
            if self._database.in_transaction:
                # SQLite itself takes back what a full disk has stopped.
                self._database.execute("ROLLBACK")
            if isinstance(error, sqlite3.OperationalError):
                raise DiskError(
                    "setup.disk",
                    f"cannot write: {error}.",
                    where=str(self._path),
                    remedy="Free some room, then run the command again; the index is what it was.",
                ) from error
            raise

    def _forget(self, name: str) -> None:
        rows = self._database.execute("SELECT id, headings, text FROM chunks WHERE path = ?", (name,)).fetchall()
        # An FTS5 table without contents of its own has to be told what it forgets.
        self._database.executemany("INSERT INTO words(words, rowid, headings, text) VALUES('delete', ?, ?, ?)", rows)
        self._database.execute("DELETE FROM chunks WHERE path = ?", (name,))
        self._database.execute("DELETE FROM files WHERE path = ?", (name,))

    def _add(self, name: str, digest: str, chunks: Sequence[Chunk]) -> None:
        self._database.execute("INSERT INTO files VALUES(?, ?)", (name, digest))
        for chunk in chunks:
            headings = json.dumps(chunk.headings, ensure_ascii=False)
            row = self._database.execute(
                "INSERT INTO chunks(path, place, headings, text) VALUES(?, ?, ?, ?)",
                (name, chunk.place, headings, chunk.text),
            ).lastrowid
            self._database.execute(
                "INSERT INTO words(rowid, headings, text) VALUES(?, ?, ?)", (row, headings, chunk.text)
            )

    def _embed(self, embed: Embed, embedder: str) -> None:
        held = self._database.execute("SELECT value FROM about WHERE name = 'embedder'").fetchone()
        if held != (embedder,):
            self._database.execute("UPDATE chunks SET vector = NULL")
            self._database.execute("INSERT OR REPLACE INTO about VALUES('embedder', ?)", (embedder,))
        bare = [row for (row,) in self._database.execute("SELECT id FROM chunks WHERE vector IS NULL ORDER BY id")]
        for start in range(0, len(bare), EMBEDDED_AT_ONCE):
            rows = bare[start : start + EMBEDDED_AT_ONCE]
            vectors = normalised(embed([self.chunk(row).whole for row in rows]))
            pairs = [(vector.tobytes(), row) for vector, row in zip(vectors, rows, strict=True)]
            self._database.executemany("UPDATE chunks SET vector = ? WHERE id = ?", pairs)

    def chunk(self, row: int) -> Chunk:
        """Return one chunk by its number."""
        place, headings, text = self._database.execute(
            "SELECT place, headings, text FROM chunks WHERE id = ?", (row,)
        ).fetchone()
        return Chunk(place, tuple(json.loads(headings)), text)

    def by_words(self, question: str, *, count: int) -> list[int]:
        """Return the numbers of the chunks that share the rarest words with a question, best first (BM25)."""
        words = list(dict.fromkeys(_WORD.findall(question.casefold())))[:MOST_WORDS]
        if not words:
            return []
        # In quotes, so that no word of a question is an operator.
        wanted = " OR ".join(f'"{word}"' for word in words)
        found = self._database.execute(
            f"SELECT rowid FROM words WHERE words MATCH ? ORDER BY bm25(words, {HEADING_WEIGHT}, 1.0), rowid LIMIT ?",
            (wanted, count),
        )
        return [row for (row,) in found]

    def by_meaning(self, vector: npt.NDArray[np.float32], *, count: int) -> list[int]:
        """Return the numbers of the chunks whose vectors point most nearly where this one does, best first."""
        rows, vectors = self._vectors()
        if not rows:
            return []
        near = vectors @ normalised(vector[None])[0]
        return [rows[place] for place in np.argsort(-near, kind="stable")[:count]]

    def _vectors(self) -> tuple[list[int], Vectors]:
        if self._held is None:
            found = self._database.execute(
                "SELECT id, vector FROM chunks WHERE vector IS NOT NULL ORDER BY id"
            ).fetchall()
            vectors = [np.frombuffer(held, dtype=np.float32) for _, held in found]
            self._held = ([row for row, _ in found], np.stack(vectors) if vectors else np.zeros((0, 0), np.float32))
        return self._held


def normalised(vectors: Vectors) -> Vectors:
    """Return vectors [n, d] with a length of 1; one of zeros stays so."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    scaled: Vectors = (vectors / np.maximum(lengths, 1e-12)).astype(np.float32)
    return scaled
