# SPDX-License-Identifier: GPL-2.0-only
"""The recorded consoles, and what is on each."""

from __future__ import annotations

from pathlib import Path

from harness.verdict.results import IncidentKind as K

CONSOLES = {
    path.stem: path.read_bytes()
    for path in sorted((Path(__file__).parents[1] / "data" / "consoles").glob("*.txt"))
}
CLEAN = [name for name in CONSOLES if name.startswith("clean")]
FAULTY = [name for name in CONSOLES if name not in CLEAN]

VFS = "Kernel panic: VFS: Unable to mount root fs on unknown-block(0,0)"
NO_INIT = (
    "Kernel panic: No working init found. Try passing init= option to kernel."
    " See Linux Documentation/admin-guide/init.rst for guidance"
)

#: console: the incidents on it, each kind, title, fingerprint
EXPECTED = {
    "atomic-6.1": [
        (
            K.ATOMIC_SLEEP,
            "scheduling while atomic in t_atomic",
            "scheduling-while-atomic:t_atomic:fault_run:fault_init",
        ),
        (
            K.WARNING,
            "WARNING in do_one_initcall (init/main.c:1322)",
            "warning:do_one_initcall:do_init_module:sys_finit_module",
        ),
        (
            K.WARNING,
            "WARNING in do_one_initcall (init/main.c:1322)",
            "warning:do_one_initcall:do_init_module:sys_init_module",
        ),
    ],
    "bad-page-7.3": [
        (K.BUG, "Bad page state in t_badpage", "bug:t_badpage:fault_run:fault_init"),
        (K.BUG, "Bad page state in fault_run", "bug:fault_run:fault_init:do_one_initcall"),
    ],
    "bug-6.1": [(K.BUG, "kernel BUG in t_bug (fault.c:25)", "bug:t_bug:fault_run:fault_init")],
    "double-free-6.1": [
        (
            K.BUG,
            "kernel BUG in fault_run (mm/slub.c:419)",
            "bug:fault_run:fault_init:do_one_initcall",
        )
    ],
    "general-protection-6.1": [
        (
            K.GPF,
            "general protection fault in t_gpf",
            "general-protection-fault:t_gpf:fault_run:fault_init",
        )
    ],
    "general-protection-7.3": [
        (
            K.GPF,
            "general protection fault in t_gpf",
            "general-protection-fault:t_gpf:fault_run:fault_init",
        )
    ],
    "hung-task-7.3": [
        (
            K.HUNG_TASK,
            "hung task in fault_run",
            "hung-task:fault_run:fault_init:do_one_initcall",
        )
    ],
    "hung-task-then-panic-6.1": [
        (
            K.PANIC,
            "hung task in fault_run, then panic",
            "hung-task:fault_run:fault_init:do_one_initcall",
        )
    ],
    "hung-task-untraced-6.1": [(K.HUNG_TASK, "hung task", "hung-task")],
    "init-exits-6.1": [
        (
            K.PANIC,
            "Kernel panic: Attempted to kill init! exitcode=0x00000100",
            "panic:do_exit:do_group_exit:sys_exit_group",
        )
    ],
    # Two CPUs at once, without callers: the second "cut here" stands in the first report.
    "interleaved-6.1": [
        (K.WARNING, "WARNING in t_two (fault.c:57)", "warning:t_two:fault_run:fault_init"),
        (K.WARNING, "WARNING in two (fault.c:56)", "warning:two:kthread"),
    ],
    "jump-to-null-6.1": [
        (
            K.OOPS,
            "NULL pointer dereference in fault_run",
            "oops:fault_run:fault_init:do_one_initcall",
        )
    ],
    "kfence-7.3": [
        (
            K.KFENCE,
            "KFENCE: out-of-bounds write in t_kfence",
            "kfence:t_kfence:fault_run:fault_init",
        )
    ],
    "list-corruption-7.3": [
        (
            K.BUG,
            "list_del corruption in t_list (lib/list_debug.c:65)",
            "bug:t_list:fault_run:fault_init",
        )
    ],
    "missing-init-6.1": [(K.PANIC, NO_INIT, "panic:kernel_init")],
    "missing-init-7.3": [
        (
            K.PANIC,
            "Kernel panic: Requested init /nonexistent failed (error -2)",
            "panic:kernel_init",
        )
    ],
    "missing-root-6.1": [
        (K.PANIC, VFS, "panic:mount_block_root:prepare_namespace:kernel_init_freeable")
    ],
    "missing-root-7.3": [
        (K.PANIC, VFS, "panic:mount_root_generic:prepare_namespace:kernel_init_freeable")
    ],
    "null-dereference-7.3": [
        (K.OOPS, "NULL pointer dereference in t_null", "oops:t_null:fault_run:fault_init")
    ],
    "oom-7.3": [(K.OUT_OF_MEMORY, "Out of memory: killed python3", "out-of-memory")],
    "oom-then-panic-6.1": [(K.PANIC, "Out of memory, then panic", "out-of-memory")],
    "oops-then-panic-6.1": [
        (K.OOPS, "NULL pointer dereference in t_null", "oops:t_null:fault_run:fault_init")
    ],
    "page-allocation-6.1": [
        (
            K.PAGE_ALLOCATION,
            "page allocation failure in t_pagealloc",
            "page-allocation:t_pagealloc:fault_run:fault_init",
        )
    ],
    "panic-7.3": [
        (
            K.PANIC,
            "Kernel panic: mptcp test: cannot go on, level 77",
            "panic:t_panic:fault_run:fault_init",
        )
    ],
    "panic-on-warn-7.3": [
        (
            K.PANIC,
            "WARNING in t_warn (fault.c:22), then panic",
            "warning:t_warn:fault_run:fault_init",
        )
    ],
    "rcu-stall-6.1": [(K.RCU, "RCU stall in t_hardlock", "rcu:t_hardlock:fault_run:fault_init")],
    "rcu-stall-7.3": [(K.RCU, "RCU stall in t_hardlock", "rcu:t_hardlock:fault_run:fault_init")],
    "refcount-6.1": [
        (
            K.REFCOUNT,
            "refcount_t: underflow; use-after-free in fault_run (lib/refcount.c:28)",
            "refcount:fault_run:fault_init:do_one_initcall",
        )
    ],
    "refcount-7.3": [
        (
            K.REFCOUNT,
            "refcount_t: underflow; use-after-free in fault_run (lib/refcount.c:28)",
            "refcount:fault_run:fault_init:do_one_initcall",
        )
    ],
    "soft-lockup-6.1": [
        (
            K.SOFT_LOCKUP,
            "soft lockup in t_softlock",
            "soft-lockup:t_softlock:fault_run:fault_init",
        )
    ],
    "soft-lockup-7.3": [
        (
            K.SOFT_LOCKUP,
            "soft lockup in t_rcu_hold",
            "soft-lockup:t_rcu_hold:fault_run:fault_init",
        )
    ],
    "stack-overflow-6.1": [
        (K.OOPS, "kernel stack overflow in t_recurse", "oops:t_recurse:fault_run:fault_init")
    ],
    "sysrq-crash-5.10": [
        (
            K.PANIC,
            "Kernel panic: sysrq triggered crash",
            "panic:sysrq_handle_crash:__handle_sysrq:write_sysrq_trigger",
        )
    ],
    "sysrq-crash-6.12": [
        (
            K.PANIC,
            "Kernel panic: sysrq triggered crash",
            "panic:sysrq_handle_crash:__handle_sysrq:write_sysrq_trigger",
        )
    ],
    "ubsan-7.3": [
        (
            K.UBSAN,
            "UBSAN: shift-out-of-bounds in fault_run (fault.c:51)",
            "ubsan:fault_run:fault_init:do_one_initcall",
        )
    ],
    "warn-6.1": [
        (K.WARNING, "WARNING in t_warn (fault.c:21)", "warning:t_warn:fault_run:fault_init")
    ],
    "warn-7.3": [
        (K.WARNING, "WARNING in t_warn (fault.c:21)", "warning:t_warn:fault_run:fault_init")
    ],
}
