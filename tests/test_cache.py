"""The cache on disk: one builder among many, damage noticed, a place that cannot be written."""

from __future__ import annotations

import multiprocessing
import os
import time
from pathlib import Path

import pytest

from attndsl.diagnostics import AttnError
from attndsl.runtime import cache as cache_module
from attndsl.runtime.cache import CHECKSUMS, Cache, default_cache, key_of


def write_hello(directory: Path) -> None:
    (directory / "hello.txt").write_text("hello")


def test_an_entry_is_written_once(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    assert cache.find("cpp", "k") is None
    calls = []

    def write(directory: Path) -> None:
        calls.append(directory)
        write_hello(directory)

    first = cache.obtain("cpp", "k", write)
    second = cache.obtain("cpp", "k", write)
    assert first == second == cache.find("cpp", "k")
    assert len(calls) == 1
    assert (first / "hello.txt").read_text() == "hello"


@pytest.mark.parametrize("damage", ["truncated", "removed", "listing"])
def test_a_damaged_entry_is_built_again(tmp_path: Path, damage: str) -> None:
    cache = Cache(tmp_path)
    path = cache.obtain("cpp", "k", write_hello)
    match damage:
        case "truncated":
            (path / "hello.txt").write_text("hel")
        case "removed":
            (path / "hello.txt").unlink()
        case "listing":
            (path / CHECKSUMS).write_text("[not json")
    assert cache.find("cpp", "k") is None
    path = cache.obtain("cpp", "k", write_hello)
    assert (path / "hello.txt").read_text() == "hello"
    assert [child.name for child in (tmp_path / "cpp").iterdir() if child.is_dir()] == ["k"]


def test_a_failing_writer_leaves_nothing(tmp_path: Path) -> None:
    cache = Cache(tmp_path)

    def fail(directory: Path) -> None:
        write_hello(directory)
        raise ValueError

    with pytest.raises(ValueError):
        cache.obtain("cpp", "k", fail)
    assert cache.find("cpp", "k") is None
    assert list(cache.entries()) == []
    assert not [child for child in (tmp_path / "cpp").iterdir() if child.is_dir()]


def test_replacing_listing_and_clearing(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("not the cache's")
    (tmp_path / "photos" / "2026").mkdir(parents=True)
    cache = Cache(tmp_path)
    cache.obtain("cpp", "a", write_hello)
    path = cache.replace("cpp", "a", lambda d: (d / "hello.txt").write_text("new") and None)
    assert (path / "hello.txt").read_text() == "new"
    cache.obtain("tune", "b", write_hello)
    assert [(e.kind, e.key) for e in cache.entries()] == [("cpp", "a"), ("tune", "b")]
    assert all(e.size > 5 for e in cache.entries())
    assert cache.clear() == 2
    assert list(cache.entries()) == []
    assert (tmp_path / "mine.txt").exists()
    assert (tmp_path / "photos" / "2026").exists()


def build_slowly(root: Path, log: Path) -> None:
    def write(directory: Path) -> None:
        with log.open("a") as file:
            file.write(f"{os.getpid()}\n")
        time.sleep(0.1)
        write_hello(directory)

    Cache(root).obtain("cpp", "shared", write)


def test_one_process_builds_and_the_others_wait(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    log = tmp_path / "log"
    processes = [
        context.Process(target=build_slowly, args=(tmp_path / "root", log)) for _ in range(4)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert len(log.read_text().splitlines()) == 1


def test_a_chosen_directory_that_cannot_be_written_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "file"
    file.write_text("")
    for place in (file, file / "below"):
        monkeypatch.setenv("ATTNDSL_CACHE", str(place))
        with pytest.raises(AttnError) as caught:
            default_cache()
        (diagnostic,) = caught.value.diagnostics
        assert diagnostic.code == "A095"
        assert str(place) in diagnostic.message
        assert "ATTNDSL_CACHE" in (diagnostic.help or "")


def test_the_users_directory_that_cannot_be_written_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "file"
    file.write_text("")
    monkeypatch.delenv("ATTNDSL_CACHE", raising=False)
    monkeypatch.setattr(cache_module, "default_directory", lambda: file)
    with pytest.warns(RuntimeWarning, match="ATTNDSL_CACHE"):
        cache = default_cache()
    assert cache.obtain("cpp", "k", write_hello).is_dir()


def test_keys_keep_their_parts_apart() -> None:
    assert key_of("ab", "c") != key_of("a", "bc")
    assert key_of("ab", "c") == key_of("ab", "c")
