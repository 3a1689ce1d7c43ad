"""Digests of files: what is remembered, what is not, and what becomes of a memory that was damaged
or is shared.
"""

import json
import os
import threading
import time

import pytest

from mlalign.core import digests
from mlalign.core.errors import UserError


@pytest.fixture
def file(tmp_path, monkeypatch):
    """A file that counts as settled, and is large enough to be remembered."""
    monkeypatch.setattr(digests, "SETTLED_S", 0.02)
    path = tmp_path / "data" / "weights"
    path.parent.mkdir()
    path.write_bytes(b"a" * digests.REMEMBERED_BYTES)
    time.sleep(0.05)
    return path


@pytest.fixture
def hashed(monkeypatch):
    """The files that are read to be hashed."""
    names, real = [], digests.sha256
    monkeypatch.setattr(digests, "sha256", lambda path: (names.append(path.name), real(path))[1])
    return names


def remembered(tmp_path, file):
    first = digests.Digests(tmp_path)
    digest = first.file(file)
    first.save()
    return digest


def test_another_process_does_not_hash_again(tmp_path, file, hashed):
    digest = remembered(tmp_path, file)
    assert digests.Digests(tmp_path).file(file) == digest and hashed == ["weights"]


def test_same_size_and_a_restored_mtime_do_not_hide_a_change(tmp_path, file):
    """ctime cannot be set back."""
    digest, told = remembered(tmp_path, file), file.stat()
    file.write_bytes(b"b" * told.st_size)
    os.utime(file, ns=(told.st_atime_ns, told.st_mtime_ns))
    assert file.stat().st_mtime_ns == told.st_mtime_ns
    assert digests.Digests(tmp_path).file(file) != digest


def test_changed_metadata_means_hashing_again_and_the_same_digest(tmp_path, file, hashed):
    digest = remembered(tmp_path, file)
    os.utime(file, (0, 0))
    os.link(file, tmp_path / "link")
    assert digests.Digests(tmp_path).file(file) == digest and hashed == ["weights"] * 2


def test_a_file_put_in_the_place_of_another_is_seen(tmp_path, file):
    digest, told = remembered(tmp_path, file), file.stat()
    other = file.with_name("other")
    other.write_bytes(b"c" * told.st_size)
    os.utime(other, ns=(told.st_atime_ns, told.st_mtime_ns))
    other.replace(file)
    assert digests.Digests(tmp_path).file(file) != digest


def test_what_was_written_just_now_is_not_remembered(tmp_path, monkeypatch, hashed):
    """Times may have a coarse grain: a second write in the same instant would not show."""
    monkeypatch.setattr(digests, "REMEMBERED_BYTES", 1)
    path = tmp_path / "new"
    path.write_text("new")
    known = digests.Digests(tmp_path)
    known.file(path)
    known.file(path)
    known.save()
    assert hashed == ["new", "new"] and not (tmp_path / digests.FILE).exists()


def test_a_clock_that_is_wrong_by_hours_changes_nothing(tmp_path, file, hashed, monkeypatch):
    """The file system's own time counts, not this machine's."""
    monkeypatch.setattr(time, "time", lambda: 0.0)
    remembered(tmp_path, file)
    digests.Digests(tmp_path).file(file)
    assert hashed == ["weights"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[1]",
        "null",
        "7",
        '{"PATH": 7}',
        '{"PATH": "1 2 3 4 short"}',
        "[" * 100_000,
        "\udcff",
    ],
)
def test_a_malformed_memory_is_ignored_and_written_anew(tmp_path, file, text):
    digest = remembered(tmp_path, file)
    (tmp_path / digests.FILE).write_bytes(
        text.replace("PATH", str(file)).encode("utf-8", "surrogateescape")
    )
    known = digests.Digests(tmp_path)
    assert known.file(file) == digest
    known.save()
    assert list(json.loads((tmp_path / digests.FILE).read_text())) == [str(file)]


def test_writers_at_once_lose_nothing(tmp_path, file):
    files = [file.with_name(f"f{i}") for i in range(12)]
    for path in files:
        path.write_bytes(os.urandom(digests.REMEMBERED_BYTES))
    time.sleep(0.05)

    def work(path):
        known = digests.Digests(tmp_path)
        known.file(path)
        known.save()

    threads = [threading.Thread(target=work, args=(path,)) for path in files]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert set(json.loads((tmp_path / digests.FILE).read_text())) == set(map(str, files))


def test_a_folder_is_its_files_through_links_too(tmp_path):
    real, folder = tmp_path / "real", tmp_path / "model"
    (real / "pooling").mkdir(parents=True)
    (real / "pooling" / "config.json").write_text("{}")
    folder.mkdir()
    (folder / "sub").symlink_to(real / "pooling")
    (folder / "up").symlink_to(folder)
    (folder / ".cache").mkdir()
    (folder / ".cache" / "x").write_text("x")
    assert list(digests.tree(folder)) == ["sub/config.json"]
    before = digests.Digests().path(folder)
    (folder / ".cache" / "x").write_text("y")
    assert digests.Digests().path(folder) == before
    (real / "pooling" / "config.json").write_text("{ }")
    assert digests.Digests().path(folder) != before


def test_a_watch_sees_changes_and_new_files(file):
    known = digests.Digests()
    known.file(file)
    watch = digests.Watch(known, [str(file)])
    assert watch.untouched()
    file.with_name("adapter_config.json").write_text("{}")
    assert not watch.untouched()


def test_what_is_gone_is_forgotten_and_moves_are_followed(tmp_path, file, hashed):
    known = digests.Digests(tmp_path)
    known.file(file)
    moved = file.parent.rename(tmp_path / "final")
    known.moved(file.parent, moved)
    known.save()
    digests.Digests(tmp_path).file(moved / "weights")
    assert hashed == ["weights"]
    (moved / "weights").unlink()
    known.forget_missing()
    assert json.loads((tmp_path / digests.FILE).read_text()) == {}


def test_a_file_that_is_gone_is_one_message(tmp_path):
    with pytest.raises(UserError, match="gone: cannot be read"):
        digests.Digests().file(tmp_path / "gone")
