# SPDX-License-Identifier: GPL-2.0-only
"""The selftest's parts that boot nothing: expectations, the module it makes, its report."""

from __future__ import annotations

import struct
import sys
import threading
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest

from guest import events
from guest import faults as guest_faults
from harness import selftest
from harness.errors import UsageError
from harness.host.architectures import ARCHITECTURES, Arch
from harness.kernels import Cache, elf
from harness.kernels.kernel_image import PreparedKernel
from harness.manifest.entries import UserSpace
from harness.manifest.kernels_yaml import DEFAULT_TIMEOUT_S, ImageSource, KernelEntry
from harness.run.workspace import Workspace
from harness.selftest import Fault, SelftestRequest, boots, faults, module
from harness.selftest import layout as layouts
from harness.selftest.code import LINE, SOURCE, Code
from harness.selftest.faults import FaultRow
from harness.selftest.layout import Layout, NoModule, of_image, of_modules
from harness.verdict.results import Attempt, BootEnd, Incident, IncidentKind
from harness.verdict.verdicts import (
    EXIT_FAILED,
    EXIT_INFRASTRUCTURE,
    EXIT_OK,
    CheckVerdict,
    KernelVerdict,
)
from harness.vm import accelerator, initramfs
from harness.vm.boot import BootPlan, Deadlines
from tests import fake_boots
from tests.fake_boots import Outcomes
from tests.kernels import builders
from tests.replacing import replaced

PANIC = Fault("panic", KernelVerdict.CRASH, "sysrq triggered", IncidentKind.PANIC)
EARLY_END = Fault("early-end", KernelVerdict.LOST, "without its closing event")
LAYOUT = Layout(
    vermagic=b"6.12.9 SMP preempt mod_unload ",
    module=elf.Structure(1280, {"name": 24, "init": 304}),
    bug_entry=elf.Structure(12, {"bug_addr_disp": 0, "file_disp": 4, "line": 8, "flags": 10}),
    versions=b"",
)
GOOD = FaultRow("panic", "crash (panic)", "crash (panic)", KernelVerdict.CRASH, 3.14)
BAD = FaultRow(
    *("early-end", "lost", "pass", KernelVerdict.PASS, 4.0),
    objection="expected lost; the reason given: none",
    console="/runs/1/kernels/new/early-end/console.log",
)
IMPOSSIBLE = FaultRow(
    "oops", "crash (oops)", "-", KernelVerdict.PASS, 0.0, impossible="it has no modules"
)


def incident(kind: IncidentKind) -> Incident:
    return Incident(kind, str(kind), str(kind), "")


def test_what_is_as_expected_meets_no_objection() -> None:
    seen = [incident(IncidentKind.PANIC), incident(IncidentKind.RCU)]
    assert PANIC.objection(KernelVerdict.CRASH, "panic: sysrq triggered crash", seen) == ""


def test_a_kernel_may_complain_about_a_stall_that_was_made() -> None:
    (fault,) = selftest.select("busy-hang")
    seen = [incident(IncidentKind.RCU)]
    assert fault.objection(KernelVerdict.HANG, "the guest fell silent", seen) == ""


@pytest.mark.parametrize(
    ("fault", "verdict", "reason", "kinds", "objection"),
    [
        (EARLY_END, KernelVerdict.PASS, "", [], "expected lost; the reason given: none"),
        (PANIC, KernelVerdict.HANG, "silence", [], "expected crash; the reason given: silence"),
        (PANIC, KernelVerdict.CRASH, "an oops", [], "not 'an oops'"),
        (
            *(PANIC, KernelVerdict.CRASH, "sysrq triggered crash", [IncidentKind.OOPS]),
            "expected panic on the console",
        ),
        (
            *(EARLY_END, KernelVerdict.LOST, "without its closing event", [IncidentKind.WARNING]),
            "expected no warning on the console",
        ),
    ],
    ids=["passed", "verdict", "reason", "other incident", "unexpected incident"],
)
def test_what_is_not_as_expected_meets_one(
    fault: Fault, verdict: KernelVerdict, reason: str, kinds: list[IncidentKind], objection: str
) -> None:
    assert objection in fault.objection(verdict, reason, map(incident, kinds))


def test_no_fault_may_pass() -> None:
    assert all(fault.verdict is not KernelVerdict.PASS for fault in selftest.FAULTS)


def test_the_guest_has_the_same_faults() -> None:
    assert list(guest_faults.FAULTS) == [fault.name for fault in selftest.FAULTS]


def test_faults_are_chosen_by_name_and_keep_their_order() -> None:
    chosen = selftest.select("hang, panic")
    assert [fault.name for fault in chosen] == ["panic", "hang"]


def test_without_a_choice_all_faults_are_tried() -> None:
    assert selftest.select(None) == selftest.FAULTS


def test_an_unknown_fault_is_named_with_those_that_are_known() -> None:
    with pytest.raises(UsageError, match=r"'panick' is not a fault .* panic, oops"):
        selftest.select("oops,panick")


@pytest.mark.parametrize("code", Code)
def test_a_module_is_whole(code: Code) -> None:
    elf.check_complete(module.build(code, LAYOUT))


@pytest.mark.parametrize("code", Code)
def test_a_module_starts_with_its_code(code: Code) -> None:
    assert elf.section(module.build(code, LAYOUT), b".text").startswith(
        code.assemblies[Arch.AMD64].text
    )


def test_a_module_says_that_it_is_of_the_kernel() -> None:
    fields = elf.section(module.build(Code.OOPS, LAYOUT), b".modinfo").split(b"\0")
    assert b"vermagic=6.12.9 SMP preempt mod_unload " in fields


def test_a_module_has_its_name_where_the_kernel_looks_for_it() -> None:
    this = elf.section(module.build(Code.OOPS, LAYOUT), b".gnu.linkonce.this_module")
    assert len(this) == 1280
    assert this[24:].startswith(module.NAME.encode() + b"\0")


def symbols(built: bytes) -> list[str]:
    """The names in the symbol table, in its order."""
    table, strings = elf.section(built, b".symtab"), elf.section(built, b".strtab")
    offsets = [row[0] for row in struct.iter_unpack("<IBBHQQ", table)]
    return [strings[offset:].split(b"\0", 1)[0].decode() for offset in offsets]


@pytest.mark.parametrize("code", Code)
def test_each_reference_of_the_code_is_relocated(code: Code) -> None:
    built = module.build(code, LAYOUT)
    names = symbols(built)
    moves = struct.iter_unpack("<QIIq", elf.section(built, b".rela.text"))
    found = {offset: (kind, names[symbol], addend) for offset, kind, symbol, addend in moves}
    expected = {}
    for offset, target in code.assemblies[Arch.AMD64].references.items():
        name, _, distance = target.partition("+")
        if name == ".text":  # the string behind the code
            expected[offset] = (2, code.symbol, len(code.assemblies[Arch.AMD64].text) - 4)
        elif name == ".data":
            expected[offset] = (2, f"{code.symbol}_data", int(distance) - 4)
        else:
            expected[offset] = (2, name, -4)
    assert found == expected


def test_locks_are_taken_in_both_orders() -> None:
    """Otherwise lockdep has nothing to report."""
    targets = list(Code.LOCK_ORDER.assemblies[Arch.AMD64].references.values())
    taken = [targets[i - 1] for i, name in enumerate(targets) if name == "_raw_spin_lock"]
    assert taken == [".data+0", ".data+256", ".data+256", ".data+0"]


def test_a_bad_index_is_described_to_ubsan() -> None:
    """struct out_of_bounds_data of lib/ubsan.h: the file, and the types of array and index."""
    built = module.build(Code.OUT_OF_BOUNDS, LAYOUT)
    names, data = symbols(built), elf.section(built, b".data")
    moves = struct.iter_unpack("<QIIq", elf.section(built, b".rela.data"))
    pointers = {offset: (names[symbol], addend) for offset, _, symbol, addend in moves}
    text = elf.section(built, b".text")
    assert text[pointers[0][1] :] == SOURCE.encode() + b"\0"
    assert data[pointers[16][1] + 4 :].startswith(b"'int [4]'\0")
    assert data[pointers[24][1] :] == struct.pack("<HH", 0, 11) + b"'int'\0"


def test_a_modules_init_is_relocated_to_its_code() -> None:
    moves = elf.section(module.build(Code.OOPS, LAYOUT), b".rela.gnu.linkonce.this_module")
    assert struct.unpack("<QIIq", moves) == (304, 1, 1, 0)  # R_X86_64_64, the only symbol


def test_a_warning_is_an_entry_of_the_bug_table() -> None:
    table = elf.section(module.build(Code.WARN, LAYOUT), b"__bug_table")
    assert struct.unpack("<iiHH", table) == (0, 0, LINE, 1)


def test_the_entry_points_to_the_trap() -> None:
    built = module.build(Code.WARN, LAYOUT)
    _, kind, _, addend = struct.unpack("<QIIq", elf.section(built, b".rela__bug_table")[:24])
    assert kind == 2  # R_X86_64_PC32
    assert elf.section(built, b".text")[addend:].startswith(b"\x0f\x0b")  # UD2


def test_a_kernel_without_places_in_its_bug_table_gets_none() -> None:
    bare = replace(LAYOUT, bug_entry=elf.Structure(6, {"bug_addr_disp": 0, "flags": 4}))
    built = module.build(Code.WARN, bare)
    assert elf.section(built, b"__bug_table") == struct.pack("<iH", 0, 1)
    assert len(elf.section(built, b".rela__bug_table")) == 24


def test_only_a_kernel_that_checks_versions_is_given_them() -> None:
    checked = replace(LAYOUT, versions=b"v" * 64)
    assert elf.section(module.build(Code.SPIN, checked), b"__versions") == b"v" * 64
    assert b"__versions" not in module.build(Code.SPIN, LAYOUT)


def test_a_symbols_name_may_be_the_end_of_another_ones() -> None:
    """Linkers merge strings so: in a kernel with devm_kasprintf, kasprintf has none of its own."""
    strings = b"\0devm_kasprintf\0kfree\0"
    places = {"devm_kasprintf": 1, "kasprintf": 6, "kfree": 16}
    table = b"".join(
        struct.pack("<iii", 0, place - 12 * index - 4, 0)
        for index, place in enumerate(places.values())
    )
    sections = {"__ksymtab": table, "__ksymtab_strings": strings}
    assert layouts._exports(builders.elf(sections)) == dict.fromkeys(places)
    checksums = {"__kcrctab": struct.pack("<III", 1, 2, 3)}
    found = layouts._exports(builders.elf(sections | checksums))
    assert found == {"devm_kasprintf": 1, "kasprintf": 2, "kfree": 3}
    versions = layouts._versions(found, ["kasprintf"])
    assert versions == struct.pack("<Q56s", 2, b"kasprintf")


def of_a_module(layout: Layout) -> Layout:
    """What a module that was made with ``layout`` says of its kernel."""
    built = module.build(Code.WARN, layout)
    # The kernel's own modules name their start so.
    return of_modules([replaced(built, b"selftest_warn\0", b"init_module\0\0\0")], layout.arch)


@pytest.mark.parametrize("arch", Arch)
def test_a_module_of_the_kernel_says_how_one_is_laid_out(arch: Arch) -> None:
    order = ">" if arch is Arch.S390X else "<"
    layout = Layout(
        vermagic=b"7.3-1 SMP mod_unload ",
        module=elf.Structure(1536, {"name": 24, "init": 392}),
        bug_entry=elf.Structure(12, {"bug_addr_disp": 0, "file_disp": 4, "line": 8, "flags": 10}),
        versions=struct.pack(order + "Q56s", 0x12345678, b"module_layout"),
        arch=arch,
        stubs=(elf.ObjectSection(".plt", 1, 6, b"\0", 1),),
        alignment=256,
        flags=2,
    )
    assert of_a_module(layout) == layout


def test_a_bug_entry_may_have_a_format() -> None:
    """Since 6.19 on some architectures; the reference to it is the second of three."""
    expected = {"bug_addr_disp": 0, "file_disp": 8, "line": 12, "flags": 14}
    assert layouts._bug_entry([0, 4, 8, 16, 20, 24]) == elf.Structure(16, expected)
    with pytest.raises(NoModule, match="names no files"):
        layouts._bug_entry([0, 8, 16])


def test_a_module_is_of_the_byte_order_and_the_machine() -> None:
    built = module.build(Code.OOPS, replace(LAYOUT, arch=Arch.S390X))
    assert (built[5], elf.machine(built)) == (2, "s390x")
    assert elf.section(built, b".text").startswith(bytes.fromhex("a719f00050101000"))


def test_what_other_architectures_lack_is_a_sentence(tmp_path: Path) -> None:
    kernel = PreparedKernel(
        *("k", "7.3", "", "", tmp_path, "", tmp_path, tmp_path), arch=Arch.S390X
    )
    with pytest.raises(NoModule, match="the selftest has no code for it on s390x"):
        layouts.of(kernel, Code.LEAK)
    with pytest.raises(NoModule, match="it has no module from which"):
        layouts.of(kernel, Code.OOPS)
    (tmp_path / "x.ko").write_bytes(module.build(Code.SPIN, replace(LAYOUT, arch=Arch.S390X)))
    with pytest.raises(NoModule, match="none of its modules has a section __bug_table"):
        layouts.of(replace(kernel, modules=(tmp_path / "x.ko",)), Code.OOPS)
    (tmp_path / "x.ko").write_bytes(b"damaged")
    with pytest.raises(NoModule, match="the layout of a module cannot be read"):
        layouts.of(replace(kernel, modules=(tmp_path / "x.ko",)), Code.OOPS)


@pytest.mark.parametrize("content", [b"", b"\x7fELF", bytes(4096)], ids=["empty", "cut", "zeros"])
def test_an_image_that_tells_nothing_is_an_error(tmp_path: Path, content: bytes) -> None:
    image = tmp_path / "vmlinux"
    image.write_bytes(content)
    with pytest.raises(NoModule, match="vmlinux"):
        of_image(image, "6.12.9", Code.OOPS)


def test_an_image_without_btf_is_an_error(tmp_path: Path) -> None:
    image = tmp_path / "vmlinux"
    image.write_bytes(module.build(Code.OOPS, LAYOUT))  # an ELF file like any other
    with pytest.raises(NoModule, match="no BTF that describes them"):
        of_image(image, "6.12.9", Code.OOPS)


def test_a_kernel_that_no_fault_can_be_made_in_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as one of one's own, without modules, beside a distribution's."""
    found = []
    for release in ("7.3.0", "6.12.9"):
        image = tmp_path / release
        image.write_bytes(b"\x7fELF")
        found.append(
            (
                KernelEntry(release, ImageSource(image), "here"),
                PreparedKernel("k", release, "", "", image, "", tmp_path, image),
            )
        )
    monkeypatch.setattr(boots, "_prepare", lambda *_: found)
    monkeypatch.setattr(accelerator, "choose", lambda *_: accelerator.Choice(False, "no KVM"))
    monkeypatch.setattr(boots._Subject, "row", lambda *_: GOOD)
    said: list[str] = []
    workspace = Workspace(tmp_path, {UserSpace(): tmp_path}, tmp_path, "7.2")
    subject, _ = boots._good_kernel(
        [], SelftestRequest(), workspace, Cache(tmp_path / "cache"), said.append, threading.Event()
    )
    assert subject.entry.name == "6.12.9"
    assert said[1].endswith("; so the next older kernel is tried")


def emitted(when: str) -> list[str]:
    """Kinds of events, and "struck" where a fault at the event ``when`` struck."""
    seen: list[str] = []

    class Subject(guest_faults.Misbehaving):
        pass

    Subject.when = when
    Subject.strike = lambda *_: seen.append("struck")
    emitter = Subject(lambda data: seen.extend(events.parse(line)["e"] for line in lines(data)))
    emitter.emit("start", i=guest_faults.CHECK)
    emitter.emit("result", i=guest_faults.CHECK, verdict=events.PASS)
    emitter.emit("end", nonce="n", results=1, rounds=1, taint=0)
    return seen


def lines(data: bytes) -> list[bytes]:
    return data.splitlines(keepends=True)


def test_a_fault_in_a_check_strikes_when_the_host_knows_which() -> None:
    assert emitted("start") == ["start", "struck", "result", "end"]


def test_a_fault_of_the_end_strikes_before_it() -> None:
    assert emitted("end") == ["start", "struck", "result", "end"]


def test_a_forged_end_has_another_nonce() -> None:
    fields: guest_faults.Fields = {"nonce": "abc"}
    guest_faults.forge_end(guest_faults.Misbehaving(lambda _: None), fields)
    assert fields == {"nonce": "000"}


def test_the_root_of_other_boots_has_no_faults(tmp_path: Path) -> None:
    base = initramfs.prepare(tmp_path, Path(sys.executable).resolve()).read_bytes()
    assert b"opt/guest/runner.py\0" in base
    assert b"opt/guest/faults" not in base
    assert b"Misbehaving" not in base


def test_extra_files_stand_behind_those_that_they_replace(tmp_path: Path) -> None:
    base, target = tmp_path / "base", tmp_path / "initramfs"
    base.write_bytes(b"BASE")
    kernel = PreparedKernel("k", "6.12", "", "", base, "", tmp_path, base)
    initramfs.write(target, base, kernel, ["seed=1"], {"opt/fault": b"panic"})
    assert target.read_bytes().startswith(b"BASE")
    assert target.read_bytes().index(b"opt/fault\0") > target.read_bytes().index(b"seed=1")


def test_a_fault_that_was_seen_is_one_line() -> None:
    assert faults.line(GOOD) == (
        "panic             crash (panic)         crash (panic)             3.1 ok"
    )


def test_a_fault_that_was_not_says_why_and_where_to_look() -> None:
    assert faults.line(BAD).splitlines() == [
        "early-end         lost                  pass                      4.0 NOT OK",
        "    expected lost; the reason given: none",
        "    console: /runs/1/kernels/new/early-end/console.log",
    ]


def test_a_reason_cannot_act_on_the_terminal() -> None:
    assert "\x1b" not in faults.line(replace(BAD, objection="\x1b[2J"))


@pytest.mark.parametrize(
    ("rows", "wanted", "said"),
    [
        ([GOOD, GOOD], 2, "selftest ok: 1 fault, all detected correctly (12 s)"),
        ([GOOD, BAD], 2, "selftest NOT OK: early-end (12 s)"),
        ([GOOD], 3, "selftest NOT OK: 2 of 3 boots not done (12 s)"),
        (
            [GOOD, GOOD, IMPOSSIBLE],
            3,
            "selftest ok: 1 fault, all detected correctly; not possible in this kernel: oops "
            "(it has no modules) (12 s)",
        ),
        (
            [replace(BAD, fault="none")],
            3,
            "selftest NOT OK: no kernel passes, so faults cannot be tested (12 s)",
        ),
    ],
    ids=["seen", "not seen", "not done", "not possible", "no good kernel"],
)
def test_the_last_line_sums_up(rows: list[FaultRow], wanted: int, said: str) -> None:
    assert faults.summary(rows, wanted, 12.3) == said


@pytest.mark.parametrize(
    ("rows", "status"),
    [
        ([GOOD, GOOD], EXIT_OK),
        ([GOOD, BAD], EXIT_FAILED),
        ([GOOD, IMPOSSIBLE], EXIT_OK),
        ([GOOD, replace(BAD, verdict=KernelVerdict.INFRASTRUCTURE)], EXIT_INFRASTRUCTURE),
        ([BAD, replace(BAD, verdict=KernelVerdict.INFRASTRUCTURE)], EXIT_FAILED),
        ([GOOD], EXIT_INFRASTRUCTURE),
        ([], EXIT_INFRASTRUCTURE),
    ],
    ids=[
        "seen",
        "not seen",
        "not possible",
        "not booted",
        "neither",
        "a row missing",
        "all missing",
    ],
)
def test_only_all_seen_exits_with_0(rows: list[FaultRow], status: int) -> None:
    assert selftest.exit_status(rows, SelftestRequest(faults=(PANIC,))) == status


# The boots themselves, with stand-ins for VMs.


class Bench:
    """A kernel on which the selftest is made, and what comes of its boots by fault."""

    def __init__(self, directory: Path) -> None:
        self.entry = KernelEntry("k", ImageSource(directory / "k"), "here", memory_mib=512)
        self.kernel = Outcomes(directory).prepare(self.entry)
        self.workspace = Workspace(
            directory / "run", {UserSpace(): directory}, Path("/bin/true"), "7.2"
        )
        self.plans: list[BootPlan] = []
        self.outcomes: list[Attempt] = []

    def boot(self, plan: BootPlan, *_: object) -> Attempt:
        self.plans.append(plan)
        plan.directory.mkdir(parents=True)
        place = str(plan.directory / "console.log")
        outcome = self.outcomes[min(len(self.plans), len(self.outcomes)) - 1]
        return replace(outcome, number=plan.number, console=place, events=place, accel="tcg")

    def row(self, fault: Fault) -> FaultRow:
        subject = boots._Subject(
            self.entry, self.kernel, self.workspace, False, 1, threading.Event()
        )
        row = subject.row(fault)
        assert row is not None
        return row


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    made = Bench(tmp_path)
    monkeypatch.setattr("harness.vm.boot.boot", made.boot)
    monkeypatch.setattr("harness.vm.commandline.needed_mib", lambda *_: 100)
    monkeypatch.setattr("harness.run.attempts.BACK_OFF", (0.0, 0.0))
    monkeypatch.setattr("harness.host.tools._load", lambda: 0.0)
    return made


def test_a_boot_that_the_host_failed_is_made_again_as_in_a_matrix(bench: Bench) -> None:
    """Fails if the selftest boots past the attempts that everything else goes through."""
    failed = Attempt(1, BootEnd.LAUNCH_FAILED, "QEMU ended with status 1")
    bench.outcomes = [failed, fake_boots.GOOD]
    row = bench.row(faults.NONE)
    assert (row.ok, len(bench.plans)) == (True, 2)
    assert row.console == str(bench.plans[1].directory / "console.log")


def test_a_fault_gets_its_memory_its_files_and_no_more_than_its_time(bench: Bench) -> None:
    bench.outcomes = [fake_boots.GOOD]
    for name in ("hang", "out-of-memory"):
        bench.row(*selftest.select(name))
    hang, out_of_memory = bench.plans
    assert hang.extra["opt/fault"] == b"hang"
    assert hang.deadlines.silence == boots.SILENCE[False]
    assert hang.deadlines.boot == Deadlines.scaled(bench.entry.timeout_s, kvm=False).boot
    assert out_of_memory.machine.memory_mib == 192
    assert hang.machine.memory_mib == 512


def test_a_kernel_with_a_longer_timeout_may_be_silent_for_longer(bench: Bench) -> None:
    """Such as one with KASAN."""
    bench.entry = replace(bench.entry, timeout_s=5 * DEFAULT_TIMEOUT_S)
    bench.outcomes = [fake_boots.GOOD]
    bench.row(*selftest.select("hang"))
    (plan,) = bench.plans
    assert plan.deadlines.silence == 5 * boots.SILENCE[False]
    assert "slowness=5" in plan.request.arguments()


def test_on_a_busy_host_a_boot_and_its_checks_have_more_time(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A load of three for each processor."""
    monkeypatch.setattr("harness.host.tools._load", lambda: 3.0)
    bench.outcomes = [fake_boots.GOOD]
    bench.row(*selftest.select("hang"))
    (plan,) = bench.plans
    assert plan.deadlines.boot == 3 * Deadlines.scaled(bench.entry.timeout_s, kvm=False).boot
    assert "slowness=3" in plan.request.arguments()


def test_a_kernel_of_another_architecture_has_its_own_qemu_and_more_time(bench: Bench) -> None:
    bench.entry = replace(bench.entry, arch=Arch.ARM64)
    bench.workspace = replace(
        bench.workspace,
        roots={bench.entry.user_space: bench.kernel.root},
        qemus={Arch.ARM64: Path("/bin/qemu-arm64")},
    )
    bench.outcomes = [fake_boots.GOOD]
    bench.row(*selftest.select("early-end"))
    bench.row(*selftest.select("hang"))
    assert bench.plans[0].qemu == Path("/bin/qemu-arm64")
    factor = ARCHITECTURES[Arch.ARM64].factor
    assert bench.plans[-1].deadlines.silence == factor * boots.SILENCE[False] > 0


def test_kernels_of_the_hosts_architecture_come_first(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = replace(bench.entry, name="other", arch=Arch.S390X)
    seen: list[str] = []

    def prepare(entries: Sequence[KernelEntry], *_: object) -> list[object]:
        seen.append(" ".join(entry.name for entry in entries))
        return []

    monkeypatch.setattr(boots, "_prepare", prepare)
    monkeypatch.setattr(
        "harness.run.workspace.opened", lambda *_, **__: nullcontext(bench.workspace)
    )
    for exact in (False, True):
        with pytest.raises(AssertionError):  # no kernel is there
            boots.run(
                *([other, bench.entry], SelftestRequest(exact=exact), Cache(bench.kernel.root)),
                *(lambda _: None, lambda _: None, threading.Event()),
            )
    assert seen == ["k", "other k"]


def test_a_fault_that_passes_is_objected_to(bench: Bench) -> None:
    bench.outcomes = [fake_boots.GOOD]
    assert "expected hang" in bench.row(*selftest.select("hang")).objection


def test_a_kernel_whose_failures_are_known_is_a_good_one(bench: Bench, tmp_path: Path) -> None:
    known = tmp_path / "known.yaml"
    known.write_text(
        "known_issues:\n  - check: payload.arrives\n    reason: it is known\n"
        "    owner: me@example.org\n    expires: 2099-01-01\n"
    )
    bench.entry = replace(bench.entry, known_issues=known)
    results = fake_boots.GOOD.stream.results
    failing = tuple(replace(result, verdict=CheckVerdict.FAIL) for result in results)
    stream = replace(fake_boots.GOOD.stream, results=failing)
    bench.outcomes = [replace(fake_boots.GOOD, stream=stream)]
    assert bench.row(faults.NONE).ok


def test_known_issues_of_the_manifest_excuse_no_fault(bench: Bench, tmp_path: Path) -> None:
    known = tmp_path / "known.yaml"
    known.write_text("known_issues: []\n")
    bench.entry = replace(bench.entry, known_issues=known)
    bench.outcomes = [fake_boots.GOOD]
    assert "expected hang" in bench.row(*selftest.select("hang")).objection


def test_a_fault_that_cannot_be_provoked_is_no_failure(bench: Bench) -> None:
    (bench.kernel.root / "image").write_bytes(bytes(4096))
    bench.kernel = replace(bench.kernel, boot_image=bench.kernel.root / "image")
    row = bench.row(*selftest.select("oops"))
    assert (row.ok, bench.plans) == (True, [])
    assert "the layout of struct module cannot be read" in row.impossible


@pytest.mark.parametrize("name", sorted(builders.COMPRESSIONS))
def test_a_module_is_made_for_a_kernel_however_it_is_compressed(
    bench: Bench, tmp_path: Path, name: str
) -> None:
    """The layout is read: what is then missing is said of an uncompressed kernel."""
    image = tmp_path / "bzImage"
    image.write_bytes(builders.bzimage(compress=builders.COMPRESSIONS[name]))
    with pytest.raises(NoModule, match="no BTF that describes them"):
        of_image(image, builders.RELEASE, Code.OOPS)
