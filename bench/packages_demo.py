# SPDX-License-Identifier: GPL-2.0-only
"""The demonstration of ``bisect --repo``: from two packages to the commit, with a kill in between.

    python -m bench.packages_demo --directory DIR

Takes two of Debian's kernels between which a check began to fail, and makes a repository of
Debian's newest source in which a commit between the tags of two neighbours breaks the same check.
The history has a side branch that is merged, and two commits that do not compile. The bisect is
killed (SIGKILL) in the middle, and continued. What happened is written to DIR/record.md. It asks
for 8 GB of disk, and for the time of one build of a whole kernel.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from bench import bisect_demo as demo
from bench.bisect_demo import DemoFailed, Record

PACKAGE = "linux-source-7.3"
CHECK = "fallback.reset_before_accept"
GOOD, BAD = "backports-6.18.12+deb13-amd64", "backports-6.19.8+deb13-amd64"
#: The tags of the two neighbours that the search in packages finds.
TAGS = ("v6.18.15", "v6.19.6")
MANIFEST = """\
kernels:
  - series: backports
    deb: {suite: trixie-backports, package: "linux-image-*+deb13-amd64"}
"""
#: The fault: the error of the first subflow is lost when it is closed.
FILE = "protocol.c"
_CALL = "\t\t__mptcp_subflow_disconnect("
FAULTY = f"\tif (!dispose_it) {{\n{_CALL}"
SOUND = f"\tif (!dispose_it) {{\n\t\t__mptcp_subflow_error_report(sk, ssk);\n{_CALL}"
NO_CODE = "\nstatic int mptcp_demo_broken(void) { return undeclared; }\n"
#: The bisect is killed some seconds after the build of this commit began.
KILLED_AT = "commit 3 of"
BUILDING = "building; log"
KILLED_AFTER_S = 5


def make_history(tree: Path) -> str:
    """Make commits from the tag of the good neighbour to that of the bad one; returns the faulty
    one."""
    history = _History(tree)
    history.edit(FILE, FAULTY, SOUND, "mptcp: report the error of a first subflow that is closed")
    demo._git(tree, "tag", "--force", TAGS[0])
    history.note("pm.c")
    history.note("ctrl.c")
    demo._git(tree, "checkout", "--quiet", "-B", "side")
    history.note("sched.c", ", on a side branch")
    history.note("mib.c", ", on a side branch")
    demo._git(tree, "checkout", "--quiet", "demo")
    history.note("options.c")
    history.merge("side")
    history.note("fastopen.c")
    history.edit("token.c", None, NO_CODE, "mptcp: token: does not compile")
    history.note("diag.c", ", and does not compile either")
    history.edit("token.c", NO_CODE, "", "mptcp: token: compiles again")
    history.edit(FILE, SOUND, FAULTY, "mptcp: simplify __mptcp_close_ssk()")
    faulty = demo._git(tree, "rev-parse", "HEAD")
    history.note("crypto.c")
    demo._git(tree, "tag", "--force", TAGS[1])
    return faulty


class _History:
    """Commits on top of the tag ``base`` of ``tree``; the same calls give the same commits."""

    def __init__(self, tree: Path) -> None:
        self._tree = tree
        self._number = 0
        demo._git(tree, "checkout", "--quiet", "--force", "-B", "demo", "base")

    def note(self, name: str, more: str = "") -> None:
        self._number += 1
        demo._annotate(self._tree / "net/mptcp" / name, self._number)
        subject = f"mptcp: {name.removesuffix('.c')}: note {self._number}{more}"
        demo._commit(self._tree, subject, self._number)

    def edit(self, name: str, old: str | None, new: str, subject: str) -> None:
        """Replace ``old``, or append ``new`` if it is None."""
        self._number += 1
        path = self._tree / "net/mptcp" / name
        text = path.read_text()
        if old is not None and text.count(old) != 1:
            raise DemoFailed(f"{path} is not as expected; take another --package")
        path.write_text(text + new if old is None else text.replace(old, new))
        demo._commit(self._tree, subject, self._number)

    def merge(self, branch: str) -> None:
        self._number += 1
        demo._git(self._tree, "merge", "--quiet", "--no-commit", "--no-ff", branch)
        demo._commit(self._tree, f"Merge branch '{branch}' of the demonstration", self._number)


def demonstrate(directory: Path, package: str, more: Sequence[str], record: Record) -> None:
    """All of it, noted in ``record``. Raises DemoFailed."""
    tree = directory / "linux"
    if not (tree / ".git").exists():
        demo.make_tree(directory, tree, package)
    faulty = make_history(tree)
    (directory / "kernels.yaml").write_text(MANIFEST)
    answer = directory / "bisect.json"
    record.add(f"* source: {package} {demo._version(tree)}; the faulty commit is {faulty[:12]}")
    started = time.monotonic()
    ends = ["--good", GOOD, "--bad", BAD, "--check", CHECK, *more]
    first = [str(directory / "kernels.yaml"), *ends, "--repo", str(tree)]
    _bisect(first, directory, record, is_killed=True)
    _bisect(["--resume", "--json", str(answer)], directory, record)
    record.add(f"* all of it: {time.monotonic() - started:.0f} s")
    found = json.loads(answer.read_text())["commits"]["first"]
    if found is None or found["id"] != faulty:
        raise DemoFailed(f"the bisect found {found}, and the fault is in {faulty}")
    record.add(f"* the answer is right: `{found['subject']}`")


def _bisect(
    arguments: Sequence[str], directory: Path, record: Record, *, is_killed: bool = False
) -> None:
    """Run a bisect, killed during the build of KILLED_AT if ``is_killed``; note what it says."""
    started = time.monotonic()
    record.add(f"* `mptcp-harness bisect {' '.join(arguments)}`:".replace(str(directory), "DIR"))
    record.add("```text")
    command = [*demo._program(), "bisect", *arguments]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    reached = False
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, errors="replace", env=environment
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if not line.startswith("["):  # the progress of a boot
                record.add(line.rstrip().replace(str(directory), "DIR"))
            reached = reached or line.startswith(KILLED_AT)
            if is_killed and reached and BUILDING in line:
                time.sleep(KILLED_AFTER_S)
                process.kill()
                break
    record.add("```")
    if is_killed and process.returncode >= 0:
        raise DemoFailed(f"the bisect ended before it built {KILLED_AT!r}")
    ended = "killed" if is_killed else f"status {process.returncode}"
    record.add(f"* {ended} after {time.monotonic() - started:.0f} s")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="packages_demo", description=__doc__.splitlines()[0])
    parser.add_argument("--directory", type=Path, default=Path("results/packages-demo"))
    parser.add_argument("--package", default=PACKAGE, help=f"Debian's source (default: {PACKAGE})")
    parser.add_argument("more", nargs="*", help="more arguments of bisect, after --")
    given = parser.parse_args(argv)
    directory = given.directory.absolute()
    directory.mkdir(parents=True, exist_ok=True)
    record = Record()
    try:
        demonstrate(directory, given.package, given.more, record)
    except (DemoFailed, OSError) as error:
        sys.stderr.write(f"the demonstration failed: {error}\n")
        return 1
    finally:
        (directory / "record.md").write_text("\n".join(record.lines) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
