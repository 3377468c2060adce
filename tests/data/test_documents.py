"""Documents -> text with its structure kept: headings, lists, code; machinery, scripts and line breaks gone."""

from __future__ import annotations

from pathlib import Path

import pytest

from fledge.data.readers.documents import from_rst
from fledge.data.sources import open_source, read_rows
from fledge.errors import DataError, Finding
from papers import docx, pdf


def only(path: Path) -> dict[str, str]:
    (row,) = read_rows(path)
    assert row.origin == str(path)
    return dict(row.values)


def test_plain_text_is_one_document_or_one_a_long_line(tmp_path: Path) -> None:
    (path := tmp_path / "notes.txt").write_bytes("First\r\n\r\n\r\n\r\nSecond \u00e4  \r\n".encode())
    assert only(path) == {"text": "First\n\nSecond ä", "title": "notes"}
    lines = ["word " * 200 + str(n) for n in range(5)]
    (path := tmp_path / "wiki.txt").write_text("\n".join(lines) + "\n")
    rows = read_rows(path)
    assert [row.values["text"] for row in rows] == lines
    assert rows[4].origin == f"{path}:5"


def test_markdown_keeps_its_text_and_loses_its_front_matter(tmp_path: Path) -> None:
    (path := tmp_path / "page.md").write_text("---\ntitle: x\n---\n# The *title*\n\nText.\n\n---\n\nMore.\n")
    assert only(path) == {"text": "# The *title*\n\nText.\n\n---\n\nMore.", "title": "The *title*"}


RST = """\
.. _a-label:

=========
The title
=========

.. sectionauthor:: Somebody <s@example.org>

.. index::
   single: hidden
   pair: also; hidden

Intro with :ref:`a title <a-label>`, :func:`len`, :class:`~os.path.Path`, ``code`` and `a link <http://x.org>`_.

Sub ject
--------

Run this::

   $ make
       indented

.. code-block:: python
   :linenos:

   print("hi")

.. note::

   Said in a note.

.. function:: open(file)

   Opens it.

Deeper
^^^^^^

* one
* two

.. a comment
   over two lines

Last --- words.

Another
-------
"""
MARKDOWN = """\
# The title

Intro with `a title`, `len`, `os.path.Path`, `code` and a link.

## Sub ject

Run this:

```
$ make
    indented
```

```
print("hi")
```

   Said in a note.

**open(file)**

   Opens it.

### Deeper

* one
* two

Last --- words.

## Another"""


def test_rst() -> None:
    assert from_rst(RST) == MARKDOWN


HTML = """\
<!doctype html><html><head><title>no</title><style>p{}</style></head><body><nav>Home | About</nav>
<h1>Shop</h1><p>Open  <b>every</b>
day &amp; night.<br>Come.</p><script>var x = "<p>no</p>";</script>
<ul><li>bread</li><li>salt</li></ul><table><tr><th>what</th><th>price</th></tr><tr><td>salt</td><td>3</td></tr></table>
<footer>imprint</footer></body></html>
"""


def test_html_shows_what_a_reader_sees(tmp_path: Path) -> None:
    for name in ("page.html", "page"):
        (path := tmp_path / name).write_text(HTML)
        text = only(path)["text"]
        for seen in ("# Shop", "Open every day & night.", "Come.", "- bread", "- salt", "what", "price"):
            assert seen in text
        for hidden in ("no", "Home", "var", "imprint", "<"):
            assert hidden not in text


def test_docx(tmp_path: Path) -> None:
    paragraph = "<w:p><w:pPr>{style}</w:pPr><w:r><w:t>{a}</w:t></w:r><w:r><w:tab/><w:t>{b}</w:t></w:r></w:p>"
    heading, item = '<w:pStyle w:val="Heading2"/>', "<w:numPr/>"
    cell = "<w:tc><w:p><w:r><w:t>{}</w:t></w:r></w:p></w:tc>"
    table = f"<w:tbl><w:tr>{cell.format('x')}{cell.format('y')}</w:tr></w:tbl>"
    body = paragraph.format(style=heading, a="A", b="B") + paragraph.format(style=item, a="one", b="two") + table
    docx(tmp_path / "a.docx", body)
    assert only(tmp_path / "a.docx")["text"] == "## A\tB\n\n- one\ttwo\n\nx | y"
    docx(tmp_path / "b.docx", "<broken")
    with pytest.raises(DataError, match="not a readable DOCX"):
        read_rows(tmp_path / "b.docx")


def test_pdf(tmp_path: Path) -> None:
    pdf(tmp_path / "a.pdf", ["A heading.", "This sentence goes on", "over two lines with a hyphen-", "ated word."])
    text = only(tmp_path / "a.pdf")["text"]
    assert "This sentence goes on over two lines with a hyphenated word." in text
    pdf(tmp_path / "scan.pdf", [])
    (found,) = open_source(tmp_path / "scan.pdf").rows
    assert isinstance(found, Finding)
    assert "without text" in found.message
    (tmp_path / "b.pdf").write_bytes(b"%PDF-1.4\n" + bytes(200))
    with pytest.raises(DataError, match="not a readable PDF"):
        read_rows(tmp_path / "b.pdf")
