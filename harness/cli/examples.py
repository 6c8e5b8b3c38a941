# SPDX-License-Identifier: GPL-2.0-only
"""What the help of each command ends with: examples, and exit statuses where they differ."""

from __future__ import annotations

import textwrap

#: By command, each a command line and what it is for.
EXAMPLES: dict[str, tuple[tuple[str, str], ...]] = {
    "matrix": (
        ("matrix", "every kernel of ./kernels.yaml"),
        ("matrix my.yaml -k 'debian-6.*' --json r.json", "some kernels, with a record for scripts"),
        ("matrix --reuse", "only kernels for which something changed"),
        ("matrix --resume", "the kernels that an interrupted run did not reach"),
    ),
    "check": (
        ("check arch/x86/boot/bzImage", "one image; its modules are found beside it"),
        ("check bzImage --against debian-6.12", "only what differs from another kernel"),
        ("check bzImage --until-fail --for 10m", "many rounds in one boot"),
        ("check bzImage --shell", "a shell in the same guest"),
        ("check bzImage --cross-check ./mptcp_sockopt", "and a program, to compare"),
    ),
    "bisect": (
        ("bisect --good debian-6.12 --bad debian-newest", "what the two kernels differ in"),
        ("bisect --good A --bad B --check 'so_linger.*'", "where one option changed"),
        ("bisect --boundaries --from A --to B", "where anything changed"),
    ),
    "step": (
        ("step --check 'so_linger.*'", "for `git bisect run`, after `git bisect start BAD GOOD`"),
        ("step --any --patch fix-build.patch", "any failure, in commits that need a patch"),
    ),
    "nightly": (
        ("nightly", "what is newly wrong, for a timer"),
        ("nightly --wait --notify ./tell-us", "tell-us gets the report and the status"),
    ),
    "replay": (
        ("replay debian-6.12.bundle.tar.zst", "the same boot again"),
        ("replay debian-6.12.bundle.tar.zst --vary", "what the failure depends on"),
    ),
    "report": (
        ("report", "the last run as Markdown"),
        ("report results.json --format junit --output junit.xml", "for a CI system"),
    ),
    "compare": (
        ("compare", "the last run with the one before it"),
        ("compare 20261101 last", "two runs, the older one first"),
    ),
    "history": (
        ("history", "each kernel over the last 20 runs"),
        ("history --check '*' -k 'debian-6.*'", "each check that ever failed"),
    ),
    "missing-fixes": (
        ("missing-fixes", "of every kernel"),
        ("missing-fixes debian-6.1 --json fixes.json", "of one, for a script too"),
    ),
    "config": (("config | vng --kconfig --config -", "configure a kernel tree"),),
    "prepare": (("prepare -k 'debian-*'", "download now, boot later"),),
    "list": (
        ("list kernels", "the kernels of ./kernels.yaml"),
        ("list checks", "each check in a sentence"),
        ("list capabilities", "the names that `expect` takes"),
        ("list fixes", "the repairs that checks can show"),
    ),
    "doctor": (("doctor", "what this host lacks, and what is kept"),),
    "selftest": (
        ("selftest", "every fault, on the newest good kernel"),
        ("selftest --only panic,hang --kernel debian-6.1", "two faults on one kernel"),
    ),
    "prune": (
        ("prune --dry-run", "what would be removed"),
        ("prune --keep 2w", "remove what was not used for two weeks"),
    ),
}
#: Of commands whose statuses mean something else than the top level's help says.
STATUSES = {
    "bisect": "0 a kernel, a range or the map is found; 1 no answer: the ends do not differ, are "
    "swapped, or the evidence contradicts itself; 2 wrong arguments or manifest; 3 an end could "
    "not be tested, or another harness runs the same bisect; 130 interrupted, and the same "
    "command continues",
    "step": "as git bisect run reads it: 0 good; 1 bad; 125 this commit cannot be tested; 128 or "
    "more stop",
    "nightly": "0 nothing is newly wrong, and everything was tested; 1 something is newly wrong, "
    "or the selftest missed a fault; 2 wrong arguments or manifest; 3 something could not be "
    "tested, another nightly runs, or the notification failed; 130 interrupted",
    "replay": "0 the failure was not reproduced, and nothing else failed; 1 a boot failed; 2 no "
    "sound bundle, or a wrong argument; 3 too little was learned; 130 interrupted",
    "compare": "0 nothing is worse; 1 something is worse; 2 there is no such run; 3 something "
    "could not be compared",
}


def epilog(command: str) -> str:
    """The examples of ``command``, and its exit statuses if they are its own."""
    lines = [(f"  mptcp-harness {line}", what) for line, what in EXAMPLES[command]]
    width = max(len(line) for line, _ in lines)
    text = "examples:\n" + "\n".join(f"{line:{width}}  {what}" for line, what in lines)
    if command in STATUSES:
        text += "\n\n" + textwrap.fill(f"exit status: {STATUSES[command]}", 92)
    return text
