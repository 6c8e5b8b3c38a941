# SPDX-License-Identifier: GPL-2.0-only
"""The bisect demonstration: a history with one bad commit, found by ``git bisect run``.

    python -m bench.bisect_demo --directory DIR

Takes Debian's source of a kernel, makes a repository of it with commits that touch net/mptcp, one
of which breaks an option on purpose, builds the two ends, shows by ``check --against`` what differs
between them, and lets git find the commit. What happened is written to DIR/record.md. It asks for
8 GB of disk, and for the time of one build of a whole kernel.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from harness.host import tools

PACKAGE = "linux-source-6.12"
CHECK = "mptcp_info.bytes_received_exact"
#: What git answers with, at the end.
_FOUND = re.compile(r"^([0-9a-f]{40}) is the first bad commit$", re.MULTILINE)
_ANSWER = re.compile(r"^(good|bad|skip): ([0-9a-f]{12})\b", re.MULTILINE)
_BUILT = re.compile(r"built in (\d+) s")

#: The file that each commit adds to, in turn.
FILES = (
    *("protocol.c", "subflow.c", "options.c", "pm.c", "sockopt.c"),
    *("ctrl.c", "token.c", "sched.c", "mib.c", "diag.c"),
)
#: The fault: MPTCP_INFO counts a byte that nobody sent.
FAULTY_FILE = "sockopt.c"
SOUND = "info->mptcpi_bytes_received = msk->bytes_received;"
FAULTY = "info->mptcpi_bytes_received = msk->bytes_received + 1;"


class DemoFailed(Exception):
    """The demonstration did not go as it should; a sentence."""


@dataclass(frozen=True)
class History:
    """The commits, the oldest first; ``faulty`` is the one to be found."""

    commits: tuple[str, ...]
    faulty: str


@dataclass
class Record:
    """What happened, as Markdown."""

    lines: list[str] = field(default_factory=list)

    def add(self, line: str = "") -> None:
        print(line, flush=True)
        self.lines.append(line)


def main(argv: Sequence[str] | None = None) -> int:
    given = _arguments(argv)
    directory: Path = given.directory.absolute()
    directory.mkdir(parents=True, exist_ok=True)
    record = Record()
    try:
        demonstrate(directory, given, record)
    except (DemoFailed, OSError) as error:
        print(f"the demonstration failed: {error}", file=sys.stderr)
        return 1
    finally:
        (directory / "record.md").write_text("\n".join(record.lines) + "\n")
    return 0


def demonstrate(directory: Path, given: argparse.Namespace, record: Record) -> None:
    """All of it, noted in ``record``. Raises DemoFailed."""
    started = time.monotonic()
    tree = directory / "linux"
    if not (tree / ".git").exists():
        make_tree(directory, tree, given.package)
    seed = random.SystemRandom().randrange(1 << 16) if given.seed is None else given.seed
    history = make_history(tree, given.commits, seed)
    record.add(f"* source: {given.package} {_version(tree)}")
    record.add(
        f"* history: {len(history.commits)} commits touching net/mptcp, of which number "
        f"{history.commits.index(history.faulty) + 1}, {history.faulty[:12]}, breaks "
        f"`{CHECK}` (seed {seed})"
    )
    record.add(f"* host: {tools.processors()} processors, {_ccache()}")
    _compare_ends(directory, tree, record)
    found = _bisect(tree, history, record)
    record.add(f"* all of it: {time.monotonic() - started:.0f} s")
    if found != history.faulty:
        raise DemoFailed(f"git found {found}, and the fault is in {history.faulty}")
    record.add(f"* the answer is right: `{_subject(tree, found)}`")


def make_tree(directory: Path, tree: Path, package: str) -> None:
    """A repository of the sources in Debian's ``package``, fetched by apt, in ``tree``."""
    _run(["apt-get", "download", package], directory)
    found = sorted(directory.glob(f"{package}_*.deb"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise DemoFailed(f"apt-get downloaded no {package}; run apt-get update, or see --package")
    _run(["dpkg-deb", "-x", str(found[-1]), "package"], directory)
    archive = next((directory / "package/usr/src").glob(f"{package}.tar.*"))
    new = directory / "unpacking"
    new.mkdir(exist_ok=True)
    _run(["tar", "-xf", str(archive), "-C", str(new), "--strip-components=1"], directory)
    ignore = new / ".gitignore"
    # Debian's last lines ignore everything at the top, for their repository holds only debian/.
    lines = ignore.read_text().splitlines(keepends=True)
    ignore.write_text("".join(line for line in lines if line.strip() != "/*"))
    _git(new, "init", "--quiet", "--initial-branch=demo")
    _git(new, "add", "--all")
    _commit(new, f"Linux {_version(new)}, as in Debian's {package}", 0)
    _git(new, "tag", "base")
    new.rename(tree)


def make_history(tree: Path, count: int, seed: int) -> History:
    """``count`` commits on top of the tag ``base``; where ``seed`` says, one has the fault."""
    _git(tree, "checkout", "--quiet", "--force", "-B", "demo", "base")
    # Not the first and not the last, so that there is something to be found.
    faulty = random.Random(seed).randrange(count // 4, count - count // 4)  # noqa: S311
    commits = []
    for number in range(count):
        name = FAULTY_FILE if number == faulty else FILES[number % len(FILES)]
        path = tree / "net/mptcp" / name
        _annotate(path, number)
        if number == faulty:
            _break(path)
        subject = f"mptcp: {name.removesuffix('.c')}: note {number} of the demonstration"
        _commit(tree, subject, number + 1)
        commits.append(_git(tree, "rev-parse", "HEAD"))
    return History(tuple(commits), commits[faulty])


def _annotate(path: Path, number: int) -> None:
    """Change what is compiled, and nothing that it does."""
    with path.open("a") as file:
        file.write(
            f"\n/* Of mptcp-harness's bisect demonstration. */\n"
            f"static const int mptcp_demo_note_{number} __used = {number};\n"
        )


def _break(path: Path) -> None:
    text = path.read_text()
    if text.count(SOUND) != 1:
        raise DemoFailed(f"{path} has not just one `{SOUND}`; take another --package")
    path.write_text(text.replace(SOUND, FAULTY))


def _compare_ends(directory: Path, tree: Path, record: Record) -> None:
    """Build both ends, judge them, and note what differs between the two images."""
    images = {}
    for name, commit, wanted in (("good", "base", 0), ("bad", "demo", 1)):
        _git(tree, "checkout", "--quiet", commit)
        images[name] = directory / f"bzImage-{name}"
        said, seconds, status = _harness(tree, "step", "--check", CHECK, "--save", images[name])
        if status != wanted:
            raise DemoFailed(f"the {name} end was judged with status {status}")
        record.add(f"* the {name} end, {commit}: {seconds:.0f} s{_of_which_built(said)}")
    said, seconds, status = _harness(tree, "check", images["bad"], "--against", images["good"])
    if status != 1:
        raise DemoFailed(f"compared with the good image, the bad one gave status {status}")
    record.add(f"* `check --against` between the two images, {seconds:.0f} s:")
    record.add("```text")
    # Not how it went, nor where this machine keeps the results.
    lines = (line for line in said.splitlines() if not line.startswith(("[", "seed ")))
    record.add("\n".join(lines).replace(str(directory), "DIR"))
    record.add("```")


def _bisect(tree: Path, history: History, record: Record) -> str:
    """What git bisect finds, each step noted."""
    _git(tree, "bisect", "start", "demo", "base")
    started = time.monotonic()
    command = ["git", "bisect", "run", *_program(), "step", "--check", CHECK]
    try:
        said, status = _shown(command, tree)
    finally:
        _git(tree, "bisect", "reset")
    seconds = time.monotonic() - started
    steps = list(_ANSWER.finditer(said))
    record.add(f"* `git bisect run mptcp-harness step --check {CHECK}`: {seconds:.0f} s")
    record.add()
    record.add("| step | commit | number | answer | built in |")
    record.add("|---|---|---|---|---|")
    before = 0
    for number, step in enumerate(steps, 1):
        place = next(i for i, id in enumerate(history.commits, 1) if id.startswith(step[2]))
        built = _BUILT.search(said, before, step.start())
        before = step.end()
        seconds_built = f"{built[1]} s" if built else "known"
        record.add(f"| {number} | {step[2]} | {place} | {step[1]} | {seconds_built} |")
    record.add()
    found = _FOUND.search(said)
    if found is None:
        raise DemoFailed(f"git bisect found nothing (status {status})")
    record.add(f"* git: {found[0]}")
    return found[1]


def _harness(tree: Path, *arguments: str | Path) -> tuple[str, float, int]:
    """What ``mptcp-harness`` prints, its seconds and its exit status."""
    started = time.monotonic()
    said, status = _shown([*_program(), *map(str, arguments)], tree)
    return said, time.monotonic() - started, status


def _shown(command: Sequence[str], directory: Path) -> tuple[str, int]:
    """What ``command`` prints, which is shown at once, and its exit status."""
    lines = []
    with subprocess.Popen(
        command,
        cwd=directory,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            lines.append(line)
    return "".join(lines), process.returncode


def _program() -> list[str]:
    beside = Path(sys.executable).with_name("mptcp-harness")
    return [str(beside)] if beside.exists() else [sys.executable, "-m", "harness"]


def _of_which_built(said: str) -> str:
    built = _BUILT.search(said)
    return f", of which {built[1]} s to build it" if built else ", already known"


def _commit(tree: Path, subject: str, minute: int) -> None:
    """Commit all changes; the same ones always give the same commit."""
    who = {"NAME": "mptcp-harness", "EMAIL": "demonstration@example.org"}
    date = f"@{1767225600 + 60 * minute} +0000"
    environment = {
        f"GIT_{role}_{key}": value
        for role in ("AUTHOR", "COMMITTER")
        for key, value in {**who, "DATE": date}.items()
    }
    signed = f"{subject}\n\nSigned-off-by: {who['NAME']} <{who['EMAIL']}>"
    _git(tree, "commit", "--quiet", "--all", "--no-verify", "-m", signed, **environment)


def _git(tree: Path, *arguments: str, **environment: str) -> str:
    # Packing 85 thousand files in the background would take the processors from the build.
    quiet = ("-c", "commit.gpgSign=false", "-c", "gc.auto=0", "-c", "maintenance.auto=false")
    return _run(["git", *quiet, *arguments], tree, **environment)


def _run(command: Sequence[str], directory: Path, **environment: str) -> str:
    try:
        run = subprocess.run(
            command,
            cwd=directory,
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            errors="replace",
        )
    except FileNotFoundError:
        raise DemoFailed(f"{command[0]} is not on this host; install it") from None
    if run.returncode != 0:
        raise DemoFailed(f"{' '.join(command)} failed: {(run.stderr or run.stdout).strip()}")
    return run.stdout.strip()


def _version(tree: Path) -> str:
    """``6.12.117``, from the tree's Makefile."""
    text = (tree / "Makefile").read_text()
    parts = (
        re.search(rf"^{name} = (\d+)$", text, re.MULTILINE)
        for name in ("VERSION", "PATCHLEVEL", "SUBLEVEL")
    )
    return ".".join(part[1] for part in parts if part)


def _subject(tree: Path, commit: str) -> str:
    return _git(tree, "log", "-1", "--format=%s", commit)


def _ccache() -> str:
    used = tools.find("ccache") is not None and "CCACHE_DISABLE" not in os.environ
    return "ccache" if used else "no ccache"


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bisect_demo", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--directory",
        type=Path,
        default=Path("results/bisect-demo"),
        help="sources, images and the record (default: results/bisect-demo); what is there of an "
        "earlier run is used again",
    )
    parser.add_argument("--package", default=PACKAGE, help=f"Debian's (default: {PACKAGE})")
    parser.add_argument(
        "--commits", type=int, default=20, metavar="N", help="16 or more (default: 20)"
    )
    parser.add_argument("--seed", type=int, help="where the fault is (default: anywhere)")
    given = parser.parse_args(argv)
    if given.commits < 16:
        parser.error("--commits: a demonstration takes at least 16")
    return given


if __name__ == "__main__":
    sys.exit(main())
