# SPDX-License-Identifier: GPL-2.0-only
"""The command line where its surroundings fail it: a sentence and a status, never a traceback."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from harness import cli, kernels
from harness.cli.arguments import EPILOG, seconds_of
from harness.errors import KernelUnavailable, UsageError
from harness.kernels import deb
from harness.kernels import debian as apt_packages
from harness.manifest.kernels_yaml import KernelEntry
from harness.records import stored_runs
from harness.run import session, workspace
from harness.verdict.results import RunResult
from tests import factories

ROOT = Path(__file__).parents[2]
PROGRAM = (sys.executable, "-m", "harness")


def shell(line: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """``line`` run by a shell, in which "$@" is the harness; its output is what goes to stderr."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    return subprocess.run(
        ["sh", "-c", line, "sh", *PROGRAM],
        cwd=ROOT,
        env={**kept, **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize(
    ("command", "output", "said", "unbuffered"),
    [
        ("list checks", ">&-", "standard output is closed", ""),
        ("list checks", ">/dev/full", "No space left on device; check", ""),
        ("list checks", ">/dev/full", "No space left on device; check", "1"),
        ("--help", ">/dev/full", "No space left on device; check", ""),
    ],
)
def test_output_that_cannot_be_written_is_said(
    command: str, output: str, said: str, unbuffered: str
) -> None:
    run = shell(f'"$@" {command} {output}', PYTHONUNBUFFERED=unbuffered)
    assert run.returncode == 3
    assert said in run.stderr
    assert len(run.stderr.splitlines()) == 1


def test_a_reader_that_left_is_told_nothing() -> None:
    run = shell('{ "$@" list checks; echo $? >&2; } | true')
    assert run.stderr.strip() in ("130", "0")


@pytest.fixture
def no_boot(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A run of one kernel is over at once; what stands in its directory, which is returned."""
    directory = tmp_path / "run"
    directory.mkdir()
    (directory / stored_runs.RECORD).write_text('{"schema": 1}\n')

    def run(entries: list[KernelEntry], *_: object) -> RunResult:
        passed = factories.run(factories.kernel(entries[0].name))
        return replace(passed, directory=str(directory))

    monkeypatch.setattr(session, "run", run)
    return directory


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "bzImage"
    path.write_text("never read")
    return path


@pytest.mark.usefixtures("no_boot")
def test_a_link_given_to_json_stays_one(tmp_path: Path, image: Path) -> None:
    (tmp_path / "link").symlink_to("target")
    assert cli.main(["check", str(image), "--json", str(tmp_path / "link")]) == 0
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").read_text() == '{"schema": 1}\n'


def test_a_record_that_cannot_be_written_is_said_with_where_it_still_is(
    no_boot: Path, image: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["check", str(image), "--json", "/dev/full"]) == 3
    said = capsys.readouterr().err
    assert said.startswith("--json /dev/full: cannot be written: No space left on device")
    assert str(no_boot / stored_runs.RECORD) in said


@pytest.mark.usefixtures("no_boot")
@pytest.mark.parametrize("target", [".", "missing/r.json", "link"])
def test_a_bad_place_for_the_record_is_refused_before_anything_boots(
    tmp_path: Path, image: Path, target: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "link").symlink_to("missing/r.json")
    assert cli.main(["check", str(image), "--json", str(tmp_path / target)]) == 2
    assert capsys.readouterr().err.startswith(f"--json {tmp_path / target}: ")


@pytest.mark.parametrize(
    ("output", "said"),
    [
        ("file", "this is a file"),
        ("file/below", "this is a file"),
        ("full", "the directory is not empty"),
    ],
)
def test_a_bad_directory_for_the_output_is_refused(tmp_path: Path, output: str, said: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "full").mkdir()
    (tmp_path / "full/x").touch()
    with pytest.raises(UsageError, match=f"--output .*: {said}; give --output a new"):
        workspace.new_directory(tmp_path / output, "id")


def test_a_directory_that_may_not_be_made_is_refused() -> None:
    with pytest.raises(UsageError, match="--output /proc/run: No such file"):
        workspace.new_directory(Path("/proc/run"), "id")


def test_an_empty_directory_is_taken(tmp_path: Path) -> None:
    assert workspace.new_directory(tmp_path, "id") == tmp_path


def test_refused_output_is_a_wrong_argument(
    monkeypatch: pytest.MonkeyPatch, image: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object) -> RunResult:
        raise UsageError("--output x: no")

    monkeypatch.setattr(session, "run", refuse)
    assert cli.main(["check", str(image)]) == 2
    assert capsys.readouterr().err == "--output x: no\n"


@pytest.mark.parametrize(
    "command", [["doctor"], ["prune"], ["prune", "--cache", "c"], ["check", "kernels.yaml"]]
)
def test_a_user_without_a_home_is_told_what_to_do(
    command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("HOME", "XDG_CACHE_HOME", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # no entry in passwd either
    assert cli.main(command) == 3
    assert "set HOME, or XDG_" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("duration", "seconds"), [("0h", 0), ("12h", 43200), ("30d", 2592000), ("2w", 1209600)]
)
def test_a_duration_has_a_unit(duration: str, seconds: int) -> None:
    assert seconds_of(duration) == seconds


@pytest.mark.parametrize("text", ["", "30", "d", "-1d", "1.5d", "1 d", "30m", "30D", "٣d"])
def test_what_is_no_duration_is_refused(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        cli.main(["prune", f"--keep={text}"])
    assert "is not a time such as 12h, 30d or 2w" in capsys.readouterr().err


@pytest.fixture
def old_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    run = workspace.runs_directory() / "20260101-000000-abcdef"
    run.mkdir(parents=True)
    (run / "run.json").write_text("{}")
    then = time.time() - 40 * 86400
    os.utime(run / "run.json", (then, then))
    return run


def test_prune_says_what_it_removed_and_how_much(
    old_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["prune", "--cache", str(tmp_path / "cache")]) == 0
    said = capsys.readouterr().out
    assert str(old_run) in said
    assert re.search(r"^removed: runs 1; [1-9][0-9]* bytes$", said, re.MULTILINE)
    assert not old_run.exists()


def test_prune_keeps_what_it_is_told_to_keep(
    old_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["prune", "--keep", "8w", "--cache", str(tmp_path / "cache")]) == 0
    assert capsys.readouterr().out == "removed: nothing; 0 bytes\n"
    assert old_run.exists()


def test_a_dry_run_removes_nothing(
    old_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["prune", "--dry-run", "--cache", str(tmp_path / "cache")]) == 0
    assert "would be removed: runs 1; " in capsys.readouterr().out
    assert old_run.exists()


@pytest.mark.usefixtures("old_run")
def test_the_doctor_shows_what_is_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["doctor", "--cache", str(tmp_path / "cache")])
    said = capsys.readouterr().out
    assert re.search(r"^ok +cache +0\.0 MiB in ", said, re.MULTILINE)
    assert re.search(r"^ok +runs +[0-9.]+ MiB in .*: runs 1$", said, re.MULTILINE)
    assert re.search(r"^ok +results +[0-9.]+ MiB in .*results\.sqlite$", said, re.MULTILINE)


@pytest.mark.parametrize(
    "option", [("--reuse",), ("--confirm", "2"), ("--family", "ipv4"), ("--output", "new")]
)
def test_a_shell_takes_no_option_that_means_nothing_to_it(
    image: Path, option: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["check", str(image), "--shell", *option]) == 2
    assert f"so {option[0]} has no effect" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (
            errno.EROFS,
            "the host failed: Read-only file system (/x); make it writable, or use another "
            "directory (--output, --cache, XDG_STATE_HOME)\n",
        ),
        (
            errno.ENOSPC,
            "the host failed: No space left on device (/x); free some space on the disk\n",
        ),
        (errno.EISDIR, "the host failed: Is a directory (/x)\n"),
    ],
)
def test_a_disk_that_cannot_be_used_comes_with_its_remedy(
    monkeypatch: pytest.MonkeyPatch,
    image: Path,
    number: int,
    said: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(*_: object) -> RunResult:
        raise OSError(number, os.strerror(number), "/x")

    monkeypatch.setattr(session, "run", fail)
    assert cli.main(["check", str(image)]) == 3
    assert capsys.readouterr().err == said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["https://example.org/bzImage"], "is an address, not a path; download it first"),
        (
            ["{image}", "--modules", "{tmp}/modules.tar.xz"],
            "is not one; unpack it, and give the dir",
        ),
    ],
)
def test_what_is_no_image_and_no_directory_comes_with_the_way_out(
    tmp_path: Path,
    image: Path,
    arguments: list[str],
    said: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "modules.tar.xz").touch()
    given = [argument.format(image=image, tmp=tmp_path) for argument in arguments]
    assert cli.main(["check", *given]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.usefixtures("no_boot")
def test_json_for_standard_output_is_refused(
    image: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["check", str(image), "--json", "-"]) == 2
    assert "--json -: the table goes to standard output" in capsys.readouterr().err
    assert not (tmp_path / "-").exists()


@pytest.mark.parametrize("name", [b"/tmp/o\xff", b"\xff/relative"])
def test_a_path_that_is_not_utf_8_is_refused_and_leaves_nothing(
    name: bytes, image: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["check", str(image), "--output", os.fsdecode(name)]) == 2
    assert "is not text in UTF-8: use another path" in capsys.readouterr().err
    assert not os.path.lexists(name)


def test_a_home_that_is_not_utf_8_is_refused(
    image: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", os.fsdecode(b"/tmp/\xff"))
    assert cli.main(["check", str(image)]) == 2
    assert "XDG_STATE_HOME " in capsys.readouterr().err


def test_a_path_beyond_ascii_under_an_ascii_locale_is_refused(tmp_path: Path) -> None:
    line = f'"$@" check x --output {tmp_path}/\xe9'
    run = shell(line, LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")
    assert (run.returncode, "LC_ALL=C.UTF-8" in run.stderr) == (2, True)
    assert len(run.stderr.splitlines()) == 1


def test_no_example_of_the_help_stands_twice() -> None:
    lines = [line for line in EPILOG.splitlines() if line.strip()]
    assert len(lines) == len(set(lines))
    commands = [line.split()[1] for line in lines if line.startswith("  mptcp-harness")]
    assert sorted(set(commands) - {"matrix", "check"}) == sorted(
        command for command in commands if command not in ("matrix", "check")
    )


def test_kernels_are_listed_as_the_manifest_has_them(
    tmp_path: Path, image: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = tmp_path / "k.yaml"
    manifest.write_text(
        "kernels:\n"
        f"  - {{name: mine, image: {image}}}\n"
        "  - {series: old, deb: {suite: bookworm, package: 'linux-image-6.1.*'}}\n"
    )
    assert cli.main(["list", "kernels", str(manifest)]) == 0
    listed = capsys.readouterr().out.splitlines()
    assert [line.split() for line in listed] == [
        ["mine", "kernel", "image", str(image)],
        ["old", "series", "deb", "bookworm", "linux-image-6.1.*"],
    ]
    held = [
        apt_packages.Package("linux-image-6.1.0-50-amd64", "6.1.176-1", "", 1, "0" * 64),
        apt_packages.Package("linux-image-6.1.0-51-amd64", "6.1.180-1", "", 1, "0" * 64),
    ]
    monkeypatch.setattr(deb, "series", lambda *_: held)
    assert cli.main(["list", "kernels", str(manifest), "--expand"]) == 0
    names = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert names == ["mine", "old-6.1.0-50-amd64", "old-6.1.0-51-amd64"]


def test_what_a_mirror_calls_itself_is_shown_escaped(
    tmp_path: Path, image: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = tmp_path / "k.yaml"
    manifest.write_text(f"kernels: [{{name: mine, image: {image}}}]\n")

    def prepare(_: object, __: object, say: Callable[[str], None]) -> None:
        say("fetching from \x1b]0;owned\x07")
        raise KernelUnavailable("no")

    monkeypatch.setattr(kernels, "prepare", prepare)
    cli.main(["prepare", str(manifest), "--cache", str(tmp_path / "cache")])
    assert "\\x1b]0;owned\\x07" in capsys.readouterr().out
