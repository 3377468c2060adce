from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from loopback import Site, serving

from fledge.errors import PullError
from fledge.model.download import download

BODY = os.urandom(300_000)
SHA256 = hashlib.sha256(BODY).hexdigest()


@pytest.fixture
def site() -> Iterator[Site]:
    with serving(Site(files={"/file": BODY})) as site:
        yield site


@pytest.fixture
def part(tmp_path: Path) -> Path:
    return tmp_path / "file.part"


def fetch(site: Site, part: Path, **options: object) -> str | None:
    return download(f"{site.url}/file", part, pause_s=0.01, **options)  # type: ignore[arg-type]


def test_a_file_arrives_whole_with_progress(site: Site, part: Path) -> None:
    told: list[tuple[int, int | None]] = []
    assert fetch(site, part, progress=lambda done, total: told.append((done, total))) == SHA256
    assert part.read_bytes() == BODY
    assert told[-1] == (len(BODY), len(BODY))


@pytest.mark.parametrize("etags", [True, False])
def test_a_broken_transfer_goes_on_where_it_stopped(site: Site, part: Path, etags: bool) -> None:
    site.etags, site.break_at, site.breaks = etags, 100_000, 2
    assert fetch(site, part) == SHA256
    assert part.read_bytes() == BODY
    assert site.headers_of("/file", "range") == [None, "bytes=100000-", "bytes=200000-"]


def test_a_server_without_ranges_sends_all_again(site: Site, part: Path) -> None:
    site.ranges, site.break_at, site.breaks = False, 100_000, 1
    assert fetch(site, part) == SHA256
    assert part.read_bytes() == BODY


def leave_a_beginning(site: Site, part: Path) -> None:
    site.break_at, site.breaks, site.statuses = 100_000, 1, [0, 503, 503]
    with pytest.raises(PullError, match="503"):
        fetch(site, part)
    assert part.stat().st_size == 100_000


@pytest.mark.parametrize("new", [os.urandom(len(BODY)), os.urandom(len(BODY) + 5), os.urandom(70_000)])
def test_a_file_that_changed_is_never_glued_to_the_old_beginning(site: Site, part: Path, new: bytes) -> None:
    leave_a_beginning(site, part)
    site.files["/file"] = new
    assert fetch(site, part) == hashlib.sha256(new).hexdigest()
    assert part.read_bytes() == new


def test_a_whole_part_is_confirmed_with_one_byte(site: Site, part: Path) -> None:
    fetch(site, part)
    assert fetch(site, part) == SHA256
    assert site.headers_of("/file", "range") == [None, f"bytes={len(BODY) - 1}-"]
    assert part.read_bytes() == BODY


def test_a_missing_file_is_none_and_asked_for_once(site: Site, part: Path) -> None:
    assert download(f"{site.url}/other", part) is None
    assert len(site.asked) == 1


def test_a_busy_server_is_asked_again_and_a_refusing_one_is_not(site: Site, part: Path) -> None:
    site.statuses = [503, 429]
    assert fetch(site, part) == SHA256
    site.asked.clear()
    site.statuses = [403]
    with pytest.raises(PullError, match="403"):
        fetch(site, part)
    assert len(site.asked) == 1


def test_no_network_is_told_in_a_few_words(part: Path) -> None:
    with serving(Site()) as gone:
        pass
    with pytest.raises(PullError) as caught:
        download(f"{gone.url}/file", part, pause_s=0.01)
    assert caught.value.message.startswith("cannot connect")
    assert not part.exists()


@pytest.mark.parametrize("address", ["nonsense", "file:///etc/hostname", "http://[::bad/"])
def test_an_address_that_is_none_is_refused_at_once(part: Path, address: str) -> None:
    with pytest.raises(PullError, match="no usable address"):
        download(address, part, pause_s=60)


def test_a_redirect_leads_to_the_file_but_takes_no_token_along(site: Site, part: Path) -> None:
    with serving(Site(redirects={"/file": f"{site.url}/file"})) as hub:
        assert download(f"{hub.url}/file", part, token="secret") == SHA256
        assert hub.headers_of("/file", "authorization") == ["Bearer secret"]
    assert site.headers_of("/file", "authorization") == [None]


def test_a_redirect_to_an_open_line_is_refused(site: Site, part: Path) -> None:
    site.redirects["/file"] = "http://192.0.2.1/file"
    with pytest.raises(PullError, match="not https"):
        fetch(site, part)


def test_a_circle_of_redirects_ends(site: Site, part: Path) -> None:
    site.redirects["/file"] = "/file"
    with pytest.raises(PullError, match="more than"):
        fetch(site, part)
