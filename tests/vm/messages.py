# SPDX-License-Identifier: GPL-2.0-only
"""Reports that Debian's kernels do not make, in the wording of the kernel's sources."""

from __future__ import annotations

from harness.verdict.results import IncidentKind as K


def _trace(*functions: str) -> str:
    frames = "".join(f" {name}+0x1f/0x60\n" for name in functions)
    return f"Call Trace:\n <TASK>\n{frames} </TASK>\n"


_RULE = "=" * 66 + "\n"

#: report: (text, kind, title, fingerprint)
REPORTS = {
    "kasan": (
        f"{_RULE}BUG: KASAN: slab-use-after-free in mptcp_a.isra.0+0x4f/0x80 [mptcp]\n"
        "Read of size 8 at addr ffff88800693a910 by task sh/124\n\n"
        "CPU: 0 PID: 124 Comm: sh Not tainted 6.6.1 #1\n"
        + _trace("dump_stack_lvl", "print_report", "kasan_report", "mptcp_a.isra.0", "mptcp_b")
        + "\nAllocated by task 99:\n kasan_save_stack+0x1f/0x60\n mptcp_c+0x1/0x2\n\n"
        + "The buggy address belongs to the object at ffff88800693a900\n"
        + _RULE,
        K.KASAN,
        "KASAN: slab-use-after-free in mptcp_a",
        "kasan:mptcp_a:mptcp_b",
    ),
    "kcsan": (
        f"{_RULE}BUG: KCSAN: data-race in mptcp_a / mptcp_b.part.0\n\n"
        "write to 0xffff888006aa0010 of 4 bytes by task 12 on cpu 1:\n"
        " mptcp_b.part.0+0x10/0x20\n mptcp_c+0x10/0x20\n\n"
        "Reported by Kernel Concurrency Sanitizer on:\nCPU: 1 PID: 12 Comm: sh\n" + _RULE,
        K.KCSAN,
        "KCSAN: data-race in mptcp_a / mptcp_b.part.0",
        "kcsan:mptcp_a:mptcp_b",
    ),
    "kmemleak": (
        "unreferenced object 0xffff888006a1c180 (size 128):\n"
        '  comm "sh", pid 124, jiffies 4294892300\n'
        "  hex dump (first 32 bytes):\n    00 01 02 03 04 05 06 07  08 09 0a 0b 0c 0d 0e 0f\n"
        "  backtrace (crc 1a2b3c4d):\n    kmem_cache_alloc_noprof+0x1c5/0x300\n"
        "    mptcp_a+0x10/0x20\n    mptcp_b+0x10/0x20\n",
        K.KMEMLEAK,
        "memory leak in mptcp_a",
        "kmemleak:mptcp_a:mptcp_b",
    ),
    "kmemleak-count": (
        "kmemleak: 3 new suspected memory leaks (see /sys/kernel/debug/kmemleak)\n",
        K.KMEMLEAK,
        "kmemleak: new suspected memory leaks",
        "kmemleak:kmemleak-new-suspected-memory-leaks",
    ),
    "circular-locking": (
        "\n======================================================\n"
        "WARNING: possible circular locking dependency detected\n6.6.1 #1 Not tainted\n"
        "------------------------------------------------------\n"
        "sh/124 is trying to acquire lock:\nffff888006b0 (&a){+.+.}-{3:3}, at: mptcp_a+0x1/0x2\n\n"
        "but task is already holding lock:\nffff888006c0 (&b){+.+.}-{3:3}, at: mptcp_c+0x1/0x2\n\n"
        "the existing dependency chain (in reverse order) is:\n\n"
        "-> #1 (&b){+.+.}-{3:3}:\n       __lock_acquire+0x1/0x2\n       mptcp_c+0x1/0x2\n\n"
        "other info that might help us debug this:\n\nstack backtrace:\n"
        + _trace("dump_stack_lvl", "print_circular_bug.cold", "lock_acquire", "mptcp_a"),
        K.LOCKDEP,
        "lockdep: possible circular locking in mptcp_a",
        "lockdep:mptcp_a",
    ),
    "lock-held": (
        "================================================\n"
        "WARNING: lock held when returning to user space!\n6.6.1 #1 Not tainted\n"
        "sh/124 is leaving the kernel with locks still held!\n",
        K.LOCKDEP,
        "lockdep: lock held when returning to user space",
        "lockdep:lockdep-lock-held-when-returning-to-user-space",
    ),
    "suspicious-rcu": (
        "=============================\nWARNING: suspicious RCU usage\n6.6.1 #1 Not tainted\n"
        "-----------------------------\n"
        "net/mptcp/pm.c:12 suspicious rcu_dereference_check() usage!\n\n"
        "other info that might help us debug this:\n\n"
        + _trace("dump_stack_lvl", "lockdep_rcu_suspicious", "mptcp_a"),
        K.RCU,
        "suspicious RCU usage in mptcp_a (net/mptcp/pm.c:12)",
        "rcu:mptcp_a",
    ),
    "expedited-stall": (
        "rcu: INFO: rcu_preempt detected expedited stalls on CPUs/tasks: { 1-...D } 27 jiffies\n"
        "NMI backtrace for cpu 1\nCPU: 1 PID: 99 Comm: sh\nRIP: 0010:mptcp_a+0x10/0x20\n"
        "Call Trace:\n <NMI>\n nmi_cpu_backtrace+0x1/0x2\n </NMI>\n <TASK>\n mptcp_b+0x1/0x2\n",
        K.RCU,
        "RCU stall in mptcp_a",
        "rcu:mptcp_a:mptcp_b",
    ),
    "self-detected-stall": (
        "rcu: INFO: rcu_sched self-detected stall on CPU\nrcu: \t0-....: (5250 ticks this GP)\n"
        "CPU: 0 PID: 99 Comm: sh\nCall Trace:\n <IRQ>\n rcu_sched_clock_irq+0x1/0x2\n"
        " something_in_the_tick+0x1/0x2\n </IRQ>\nRIP: 0010:mptcp_a+0x10/0x20\n mptcp_b+0x1/0x2\n",
        K.RCU,
        "RCU stall in mptcp_a",
        "rcu:mptcp_a:mptcp_b",
    ),
    "hard-lockup": (
        "NMI watchdog: Watchdog detected hard LOCKUP on cpu 1\nModules linked in:\n"
        "CPU: 1 PID: 99 Comm: sh\nRIP: 0010:mptcp_a+0x10/0x20\n" + _trace("mptcp_b"),
        K.HARD_LOCKUP,
        "hard LOCKUP in mptcp_a",
        "hard-lockup:mptcp_a:mptcp_b",
    ),
    "workqueue-lockup": (
        "BUG: workqueue lockup - pool cpus=0 node=0 flags=0x0 nice=0 stuck for 31s!\n",
        K.SOFT_LOCKUP,
        "workqueue lockup",
        "soft-lockup:workqueue-lockup",
    ),
    "sleeping-in-atomic": (
        "BUG: sleeping function called from invalid context at net/core/sock.c:3537\n"
        "in_atomic(): 1, irqs_disabled(): 0, non_block: 0, pid: 124, name: sh\n"
        + _trace("dump_stack_lvl", "__might_resched", "mptcp_a"),
        K.ATOMIC_SLEEP,
        "sleeping function called from invalid context in mptcp_a (net/core/sock.c:3537)",
        "scheduling-while-atomic:mptcp_a",
    ),
    "slub": (
        "=============================================\n"
        "BUG kmalloc-64 (Tainted: G    B             ): Object already free\n"
        "---------------------------------------------\n\n"
        + _trace("dump_stack_lvl", "object_err", "kfree", "mptcp_a"),
        K.BUG,
        "SLUB: Object already free in mptcp_a",
        "bug:mptcp_a",
    ),
    "stack-protector": (
        "Kernel panic - not syncing: stack-protector: Kernel stack is corrupted in: "
        "mptcp_a+0x10/0x20\n" + _trace("dump_stack_lvl", "panic", "__stack_chk_fail", "mptcp_a"),
        K.PANIC,
        "Kernel panic: stack-protector: Kernel stack is corrupted in: mptcp_a+0x10/0x20",
        "panic:mptcp_a",
    ),
    "list-warning": (
        "------------[ cut here ]------------\n"
        "list_add corruption. next->prev should be prev (ffff), but was 0000. (next=aaaa).\n"
        "WARNING: CPU: 0 PID: 9 at lib/list_debug.c:25 __list_add_valid+0x1/0x2\n"
        "RIP: 0010:__list_add_valid+0x1/0x2\n"
        + _trace("mptcp_a")
        + "---[ end trace 0000000000000000 ]---\n",
        K.BUG,
        "list_add corruption in mptcp_a (lib/list_debug.c:25)",
        "bug:mptcp_a",
    ),
    "divide-error": (
        "divide error: 0000 [#1] PREEMPT SMP NOPTI\nRIP: 0010:mptcp_a+0x1/0x2\n"
        + _trace("mptcp_b"),
        K.OOPS,
        "Oops: divide error in mptcp_a",
        "oops:mptcp_a:mptcp_b",
    ),
    "arm64": (
        "Unable to handle kernel NULL pointer dereference at virtual address 0000000000000008\n"
        "Mem abort info:\n  ESR = 0x0000000096000004\n"
        "Internal error: Oops: 0000000096000004 [#1] PREEMPT SMP\n"
        "pc : mptcp_a+0x14/0x40 [mptcp]\nlr : mptcp_b+0x20/0x80 [mptcp]\n"
        "Call trace:\n mptcp_a+0x14/0x40 [mptcp] (P)\n mptcp_b+0x20/0x80 [mptcp]\n"
        "Code: d503201f\n---[ end trace 0000000000000000 ]---\n"
        "Kernel panic - not syncing: Oops: Fatal exception\n",
        K.OOPS,
        "NULL pointer dereference in mptcp_a",
        "oops:mptcp_a:mptcp_b",
    ),
    "s390x": (
        "Unable to handle kernel pointer dereference in virtual kernel address space\n"
        "Failing address: fffffffffffff000 TEID: fffffffffffff403 ESOP-2 FSI\n"
        "Oops: 0038 ilc:2 [#1]SMP \n"
        "Krnl PSW : 0704c00180000000 000003ff7e359004 (mptcp_a+0x4/0x1000 [mptcp])\n"
        "Krnl GPRS: 0000000000000000 fffffffffffff000 0000000000000000 0000000000000240\n"
        "Krnl Code:*000003ff7e359000: a719f000\t\tlghi\t%r1,-4096\n"
        "Call Trace:\n [<000003ff7e359004>] mptcp_a+0x4/0x1000 [mptcp] \n"
        "([<000003fffe4b7b56>] mptcp_b+0x3e/0x328)\n"
        "Last Breaking-Event-Address:\n [<000003fffe4b7b64>] mptcp_b+0x4c/0x328\n"
        "---[ end trace 0000000000000000 ]---\n",
        K.OOPS,
        "unable to handle page fault in mptcp_a",
        "oops:mptcp_a:mptcp_b",
    ),
    "ppc64el": (
        "Kernel attempted to write user page (0) - exploit attempt? (uid: 0)\n"
        "BUG: Kernel NULL pointer dereference on write at 0x00000000\n"
        "Faulting instruction address: 0xc00800000023b004\n"
        "Oops: Kernel access of bad area, sig: 11 [#1]\n"
        "NIP:  c00800000023b004 LR: c000000000010cec CTR: c00800000023b000\n"
        "GPR00: c000000000010cd4 c0000000070e7740 c000000001ef9100 0000000000000000 \n"
        "NIP [c00800000023b004] mptcp_a+0x4/0x1000 [mptcp]\n"
        "LR [c000000000010cec] mptcp_b+0x7c/0x3fc\nCall Trace:\n"
        "[c0000000070e7740] [c000000000010cd4] mptcp_b+0x64/0x3fc (unreliable)\n"
        "[c0000000070e7820] [c00000000038d2d4] mptcp_c+0x74/0x370\n"
        "---- interrupt: 3000 at 0x101f6638\nNIP:  00000000101f6638 LR: 00000000101f6638\n"
        "---[ end trace 0000000000000000 ]---\n",
        K.OOPS,
        "NULL pointer dereference in mptcp_a",
        "oops:mptcp_a:mptcp_b:mptcp_c",
    ),
    "hung-in-io": (
        "INFO: task kworker/u8:2:77 blocked in I/O wait for more than 122 seconds.\n"
        '"echo 0 > /proc/sys/kernel/hung_task_timeout_secs" disables this message.\n'
        + _trace("__schedule", "schedule", "io_schedule", "mptcp_a"),
        K.HUNG_TASK,
        "hung task in mptcp_a",
        "hung-task:mptcp_a",
    ),
    "preemption": (
        "BUG: using smp_processor_id() in preemptible [00000000] code: sh/124\n"
        + _trace("dump_stack_lvl", "mptcp_a"),
        K.BUG,
        "BUG: using smp_processor_id() in preemptible in mptcp_a",
        "bug:mptcp_a",
    ),
}

#: What kernels and programs say when nothing is wrong.
HARMLESS = """\
Command line: console=ttyS0 oops=panic panic=-1 note="Kernel panic - not syncing: BUG: Oops [#1]"
Kernel command line: hung_task_panic=1 rcupdate.rcu_cpu_stall_suppress=1 BUG: WARNING: CPU: 0
Unknown kernel command line parameters "BUG: unable to handle", will be passed to user space.
kfence: initialized - using 2097152 bytes for 255 objects at 0x(____ptrval____)
kmemleak: Kernel memory leak detector initialized (mem pool available: 15679)
ACPI BIOS Error (bug): Could not resolve symbol [\\_SB.PCI0], AE_NOT_FOUND (20230628/psargs-330)
Spectre V2 : WARNING: Unprivileged eBPF is enabled with eIBRS on, data leaks possible!
WARNING: Spectre v2 mitigation leaves CPU vulnerable to RETBleed attacks, data leaks possible!
mce: [Hardware Error]: Machine check events logged
x86/mm: Checked W+X mappings: passed, no W+X pages found.
rcu: RCU CPU stall timeout is 21 seconds
rcu: INFO: Stall ended before state dump start
NMI watchdog: Perf NMI watchdog permanently disabled
INFO: NMI handler (perf_event_nmi_handler) took too long to run: 1.2 msecs
INFO: lockdep is turned off.
systemd[1]: Set hostname to <BUG>.
traps: sh[124] general protection fault ip:401000 sp:7ffe error:0 in busybox[401000+1a0000]
sh[124]: segfault at 8 ip 0000000000401000 sp 00007ffe error 4 in busybox[401000+1a0000]
fault: loading out-of-tree module taints kernel.
virtme-ng-init: mount tmpfs -> /dev/shm: ENODEV: No such device
workqueue: drain_vmap_area_work hogged CPU for >10000us 4 times, consider switching to WQ_UNBOUND
perf: interrupt took too long (2511 > 2500), lowering kernel.perf_event_max_sample_rate to 79500
vmalloc area: 0xffffc90000000000
"""

#: What a program may write on a console whose kernel messages have timestamps.
PROGRAM = """\
WARNING: the module is deprecated
BUG: this is the program's own
INFO: task sh is done
Traceback: Oops, general protection
see issue [#12] in file.c:12
general protection of data
Out of memory and out of luck
the request was blocked for more than 5 seconds
other info that might help us debug this: none
make is trying to acquire lock
"""
