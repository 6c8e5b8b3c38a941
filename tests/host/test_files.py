# SPDX-License-Identifier: GPL-2.0-only
from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from harness.errors import HostError
from harness.host import files


@pytest.fixture
def place(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_text("old")
    return path


def move_times_to(path: Path, seconds: float) -> None:
    os.utime(path, (seconds, seconds))


def test_a_file_that_nobody_touched_keeps_its_stamp(place: Path) -> None:
    assert files.stamp(place) == files.stamp(place)


def test_a_file_that_was_replaced_has_another_stamp(place: Path) -> None:
    before = files.stamp(place)
    other = place.with_name("other")
    other.write_text("new")
    os.utime(other, ns=(before[1], before[1]))
    other.replace(place)
    assert files.stamp(place) != before


def test_a_change_shows_even_if_the_time_of_the_bytes_was_set_back(place: Path) -> None:
    old = time.time() - 3600
    move_times_to(place, old)
    before = files.stamp(place)
    place.write_text("new")
    move_times_to(place, old)
    assert files.stamp(place) != before


def test_a_stamp_is_of_the_file_behind_a_link(place: Path) -> None:
    link = place.with_name("link")
    link.symlink_to(place)
    assert files.stamp(link) == files.stamp(place)


def test_a_change_just_now_may_not_be_the_last_of_its_time(place: Path) -> None:
    assert not files.is_settled(files.stamp(place))


def test_a_file_whose_bytes_are_old_and_whose_name_is_new_is_not_settled(place: Path) -> None:
    move_times_to(place, time.time() - 3600)
    assert not files.is_settled(files.stamp(place))


def test_a_change_long_ago_is_settled() -> None:
    long_ago = int((time.time() - files.SETTLED - 1) * 1e9)
    assert files.is_settled([3, long_ago, long_ago, 1])


def test_what_was_remembered_is_recalled(place: Path) -> None:
    files.remember(place, {"stamp": [1, 2]})
    assert files.recall(place) == {"stamp": [1, 2]}


@pytest.mark.parametrize("content", [b"", b'{"stamp": [1', b"\xff\xfe"])
def test_what_is_torn_is_not_recalled(place: Path, content: bytes) -> None:
    place.write_bytes(content)
    assert files.recall(place) is None


def test_what_is_gone_is_not_recalled(tmp_path: Path) -> None:
    assert files.recall(tmp_path / "nothing") is None


def test_a_disk_that_remembers_nothing_is_no_error(tmp_path: Path) -> None:
    files.remember(tmp_path / "missing" / "file", {})


def test_a_touch_of_what_is_gone_is_no_error(tmp_path: Path) -> None:
    files.touch(tmp_path / "nothing")


def test_a_file_is_replaced_in_one_step(place: Path) -> None:
    with place.open() as reader:
        files.write_atomically(place, "new")
        assert (reader.read(), place.read_text()) == ("old", "new")


def test_writers_of_the_same_file_do_not_meet(place: Path) -> None:
    texts = [str(number) * 100_000 for number in range(4)]
    threads = [threading.Thread(target=files.write_atomically, args=(place, t)) for t in texts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert place.read_text() in texts
    assert list(place.parent.iterdir()) == [place]


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(
    place: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(error):
        files.write_atomically(place, "new")
    assert [(path.name, path.read_text()) for path in place.parent.iterdir()] == [("file", "old")]


def test_a_link_is_written_through(place: Path) -> None:
    link = place.with_name("link")
    link.symlink_to("file")
    files.write_through(link, "new")
    assert link.is_symlink()
    assert place.read_text() == "new"


def test_a_link_to_nothing_yet_is_written_through(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("file")
    files.write_through(tmp_path / "link", "new")
    assert (tmp_path / "file").read_text() == "new"


def test_a_pipe_is_written_to(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    said: list[str] = []
    reader = threading.Thread(target=lambda: said.append(pipe.read_text()))
    reader.start()
    files.write_through(pipe, "new")
    reader.join()
    assert said == ["new"]
    assert pipe.is_fifo()


def test_a_plain_file_is_still_replaced_in_one_step(place: Path) -> None:
    with place.open() as reader:
        files.write_through(place, "new")
        assert (reader.read(), place.read_text()) == ("old", "new")


def test_a_directory_of_the_users_is_what_was_found(tmp_path: Path) -> None:
    assert files.user_directory(lambda: tmp_path, "...") == tmp_path


def test_a_user_without_a_home_is_told_what_to_do() -> None:
    def find() -> Path:
        raise RuntimeError

    with pytest.raises(HostError, match="set HOME, or give --cache DIR"):
        files.user_directory(find, "give --cache DIR")


def test_a_home_that_stayed_a_tilde_is_none() -> None:
    with pytest.raises(HostError):
        files.user_directory(lambda: Path("~/.cache"), "give --cache DIR")
