# SPDX-License-Identifier: GPL-2.0-only
"""What kmemleak tells: its count in the kernel's log, and then its file, as the guest prints it.

No kernel of Debian's has it. The reports are in the wording of real ones, of mptcp_net-next's
issues 89, 267 and 583 and of the kernel's history, with the guest's own name in them.
"""

from __future__ import annotations

import pytest

from harness.verdict.results import IncidentKind as K
from harness.vm.incidents import scan
from tests.replacing import replaced

COUNT = "kmemleak: {} new suspected memory leaks (see /sys/kernel/debug/kmemleak)"
COUNTED = (
    K.KMEMLEAK,
    "kmemleak: new suspected memory leaks",
    "kmemleak:kmemleak-new-suspected-memory-leaks",
)

#: 5.x: an age, and each frame with its hashed address.
OLD = """\
unreferenced object 0xffff8881141bc000 (size 4096):
  comm "python3", pid 71, jiffies 4294941234 (age 7.012s)
  hex dump (first 32 bytes):
    0a 00 01 01 0a 00 01 02 00 00 00 00 c3 52 2c a6  .............R,.
    02 00 07 40 00 00 00 00 00 00 00 00 00 00 00 00  ...@............
  backtrace:
    [<00000000705096e3>] sk_prot_alloc+0xa5/0x170
    [<00000000bf556549>] sk_alloc+0x31/0x3a0
    [<000000001b89eacc>] inet_create+0x182/0x630
    [<0000000002098173>] __sock_create+0x1c6/0x3d0
    [<00000000f74a2274>] do_syscall_64+0x3b/0x90
    [<000000001638faf6>] entry_SYSCALL_64_after_hwframe+0x44/0xae
unreferenced object 0xffff9e83383af608 (size 368):
  comm "softirq", pid 0, jiffies 4294809590 (age 7.243s)
  hex dump (first 32 bytes):
    0a 00 03 02 0a 00 01 01 6f b6 93 1c b0 3f 1f 27  ........o....?.'
    02 00 0c 00 00 00 00 00 00 00 00 00 00 00 00 00  ................
  backtrace:
    [<0000000004235750>] inet_reqsk_alloc+0x21/0x130
    [<00000000e50be1b8>] cookie_tcp_reqsk_alloc+0x29/0xf0
    [<00000000de164302>] cookie_v4_check+0x14d/0x690
    [<00000000ffffffff>] 0xffffffffffffffff
"""
#: 6.12 and later: a checksum, and bare frames.
NEW = """\
unreferenced object 0xffff888119d90c80 (size 3032):
  comm "python3", pid 71, jiffies 4299819414
  hex dump (first 32 bytes):
    7f 00 00 06 7f 00 00 06 00 00 00 00 ad 97 90 1f  ................
    0a 00 07 41 00 00 00 00 00 00 00 00 00 00 00 00  ...A............
  backtrace (crc 890e4443):
    kmem_cache_alloc_noprof+0x3e9/0x4b0
    sk_prot_alloc.isra.0+0x5f/0x240
    sk_clone_lock+0x5b/0xf50
    mptcp_sk_clone_init+0x4d/0x9e0
    subflow_syn_recv_sock+0x7d5/0x1290
"""
PER_CPU = """\
unreferenced object (percpu) 0x607b97e9cab8 (size 16):
  comm "python3", pid 71, jiffies 4294931867
  hex dump (first 16 bytes on cpu 3):
    00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00
  backtrace (crc 0):
    mptcp_init_sock+0x9c/0x190 [mptcp]
    inet_create+0x8f/0x1b0
    __sock_create+0x2cb/0x5f0
"""
REPORTS = {
    "5.x": (
        OLD,
        (
            K.KMEMLEAK,
            "memory leak in sk_prot_alloc",
            "kmemleak:sk_prot_alloc:sk_alloc:inet_create",
        ),
        (
            K.KMEMLEAK,
            "memory leak in inet_reqsk_alloc",
            "kmemleak:inet_reqsk_alloc:cookie_tcp_reqsk_alloc:cookie_v4_check",
        ),
    ),
    "6.12": (
        NEW,
        (
            K.KMEMLEAK,
            "memory leak in sk_prot_alloc",
            "kmemleak:sk_prot_alloc:sk_clone_lock:mptcp_sk_clone_init",
        ),
    ),
    "6.13, of one CPU": (
        PER_CPU,
        (
            K.KMEMLEAK,
            "memory leak in mptcp_init_sock",
            "kmemleak:mptcp_init_sock:inet_create:__sock_create",
        ),
    ),
}


def console(report: str, ending: str = "\r\n") -> bytes:
    """The kernel's lines have timestamps, those that a program prints from the file have none."""
    lines = [
        "[    0.000000] Linux version 6.12.1",
        "[    0.734512] kmemleak: Kernel memory leak detector initialized (mem pool available: 15)",
        "[    0.734601] kmemleak: Automatic memory scanning thread started",
        "mptcp-harness: the guest's command ended with status 0",
        f"[   11.640310] {COUNT.format(2)}",
        *report.splitlines(),
        "[   11.700000] reboot: Power down",
    ]
    return "".join(line + ending for line in lines).encode()


def told(text: bytes) -> list[tuple[K, str, str]]:
    return [(one.kind, one.title, one.fingerprint) for one in scan(text)]


@pytest.mark.parametrize("ending", ["\n", "\r\n"], ids=["LF", "CRLF"])
@pytest.mark.parametrize("name", REPORTS)
def test_each_leak_is_an_incident_beside_their_count(name: str, ending: str) -> None:
    report, *leaks = REPORTS[name]
    assert isinstance(report, str)
    assert told(console(report, ending)) == [COUNTED, *leaks]


def test_the_excerpt_of_a_leak_has_its_backtrace() -> None:
    _, leak = scan(console(NEW))
    assert "(size 3032)" in leak.excerpt
    assert leak.excerpt.rstrip().endswith("subflow_syn_recv_sock+0x7d5/0x1290")


def test_the_same_leak_many_times_is_one_incident() -> None:
    assert told(console(NEW * 30)) == told(console(NEW))


def test_a_kernel_with_kmemleak_and_without_leaks_is_well() -> None:
    quiet = replaced(console(""), b"[   11.640310] " + COUNT.format(2).encode() + b"\r\n", b"")
    assert told(quiet) == []
