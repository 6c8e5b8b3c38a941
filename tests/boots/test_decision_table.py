# SPDX-License-Identifier: GPL-2.0-only
"""What can go wrong with a boot, each row on a real VM; docs/decision-table.md lists them all.

What a guest does wrong on purpose while its kernel is well is `mptcp-harness selftest`'s.
"""

from __future__ import annotations

import ast
import lzma
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness.host import tools
from harness.kernels import prepare
from harness.kernels.cache import Cache
from harness.kernels.kernel_image import PreparedKernel
from harness.manifest import kernels_yaml
from harness.manifest.expectations import expectations
from harness.manifest.kernels_yaml import DebSource, KernelEntry
from harness.manifest.plan import Plan
from harness.verdict import judge
from harness.verdict.results import Attempt, BootEnd
from harness.verdict.verdicts import Family, KernelVerdict
from harness.vm import boot, initramfs
from harness.vm.boot import BootPlan, Deadlines
from harness.vm.commandline import PORT, Machine, Request
from tests.boots.conftest import Harness
from tests.conftest import all_required
from tests.replacing import replaced

#: Seconds, for a busy machine; a row that has to wait for one of them has its own.
PATIENT = Deadlines(boot=120, silence=60, power_off=60, total=300)
CHECKER = f"{initramfs.CHECKER}/__main__.py"
Judged = tuple[Attempt, KernelVerdict, str]
Boot = Callable[..., Judged]


def debian(cache: Cache, suite: str, package: str = "linux-image-amd64") -> PreparedKernel:
    return prepare(
        KernelEntry(suite, DebSource(suite, package), "the tests"), cache, lambda _: None
    )


@pytest.fixture(scope="module")
def kernel(cache: Cache) -> PreparedKernel:
    return debian(cache, "trixie")


@pytest.fixture(scope="module")
def base(cache: Cache) -> Path:
    busybox = tools.find_static_busybox()
    assert busybox is not None
    return initramfs.prepare(cache.root, busybox)


class Qemu:
    """The host's QEMU behind a script; what was done with it, and what is done to it."""

    def __init__(self, place: Path) -> None:
        self.real = tools.find("qemu-system-x86_64")
        self.place = place
        self.program = place / "qemu-system-x86_64"
        self.runs('exec "$real" "$@"')

    def runs(self, last: str) -> None:
        """Let the script end in ``last``, in which $real is the real QEMU."""
        self.program.write_text(
            f"#!/bin/sh\nreal={self.real}\n"
            '[ "$1" = --version ] && exec "$real" "$@"\n'
            f"echo $$ > {self.place}/pid\nprintf '%s\\n' \"$@\" > {self.place}/arguments\n{last}\n"
        )
        self.program.chmod(0o755)

    @property
    def arguments(self) -> list[str]:
        return (self.place / "arguments").read_text().splitlines()

    def kill(self) -> None:
        os.kill(int((self.place / "pid").read_text()), signal.SIGKILL)


@pytest.fixture
def qemu(tmp_path: Path) -> Qemu:
    return Qemu(tmp_path)


@pytest.fixture
def booted(kernel: PreparedKernel, base: Path, qemu: Qemu, tmp_path: Path) -> Boot:
    """Boots once, with one check over IPv4, and judges."""

    def run(
        *,
        kernel: PreparedKernel = kernel,
        root: Path = base,
        extra: dict[str, bytes] | None = None,
        append: tuple[str, ...] = (),
        deadlines: Deadlines = PATIENT,
        on_check: Callable[[], None] = lambda: None,
    ) -> Judged:
        plan = BootPlan(
            kernel=kernel,
            base=root,
            qemu=qemu.program,
            machine=Machine(append=append),
            request=Request("0123456789abcdef", 1, Plan((Family.IPV4,), ("mptcp_info.readable",))),
            deadlines=deadlines,
            directory=tmp_path / "attempt",
            extra=extra or {},
        )

        def on_progress(_: boot.Checking) -> None:
            on_check()

        attempt = boot.boot(plan, threading.Event(), on_progress)
        expected = expectations(kernel.release, True, {})
        verdict, reason = judge.kernel(
            attempt, judge.families(attempt, plan.request.plan.families, expected)
        )
        return attempt, verdict, reason

    return run


def console(judged: Judged) -> str:
    return Path(judged[0].console).read_text(errors="replace")


def with_init(base: Path, text: str, place: Path) -> Path:
    """``base`` with another /init."""
    root = place / "base.cpio"
    shutil.copyfile(base, root)
    with root.open("ab") as file:
        archive = initramfs.CpioWriter(file)
        archive.file("init", text.encode(), 0o755)
        archive.close()
    return root


def without(base: Path, name: str, place: Path) -> Path:
    """``base`` without the file ``name``; see harness.vm.initramfs for the format."""
    data = base.read_bytes()
    kept = bytearray()
    at = 0
    while data[at : at + 6] == b"070701":
        size, length = (int(data[at + i : at + i + 8], 16) for i in (54, 94))
        content = at + 110 + length + -(110 + length) % 4
        end = content + size + -size % 4
        if data[at + 110 : at + 110 + length - 1] != name.encode():
            kept += data[at:end]
        at = end
    assert len(kept) < len(data)
    root = place / "base.cpio"
    root.write_bytes(kept)
    return root


def in_the_first_check(act: str) -> dict[str, bytes]:
    """The real checker, which does ``act`` once it has said that a check starts."""
    return {
        CHECKER: f"""\
import os, sys
sys.path[0] = "/opt"
from guest import events, vm
emit = events.Emitter.emit
def struck(self, kind, **fields):
    emit(self, kind, **fields)
    if kind == "start":
        {act}
events.Emitter.emit = struck
sys.exit(vm.main(sys.argv[2:]))
""".encode()
    }


# Before the guest starts.


def test_a_kernel_that_panics_before_the_guest_starts_crashed(
    booted: Boot, base: Path, tmp_path: Path
) -> None:
    init = "#!/bin/sh\nmount -t proc proc /proc\necho c > /proc/sysrq-trigger\n"
    attempt, verdict, reason = booted(root=with_init(base, init, tmp_path))
    assert verdict is KernelVerdict.CRASH
    assert "sysrq triggered crash" in reason
    assert not attempt.stream.said_hello


def test_a_kernel_that_finds_no_init_is_a_boot_failure(
    booted: Boot, base: Path, tmp_path: Path
) -> None:
    _, verdict, reason = booted(root=without(base, "init", tmp_path))
    assert verdict is KernelVerdict.BOOT_FAILURE
    assert "root" in reason


def test_a_kernel_whose_initramfs_is_cut_is_a_boot_failure(
    booted: Boot, base: Path, tmp_path: Path
) -> None:
    cut = tmp_path / "base.cpio"
    cut.write_bytes(base.read_bytes()[:4000])
    _, verdict, reason = booted(root=cut)
    assert verdict is KernelVerdict.BOOT_FAILURE
    assert "root" in reason


def test_a_boot_that_stops_is_a_boot_failure(booted: Boot, base: Path, tmp_path: Path) -> None:
    root = with_init(base, "#!/bin/sh\nexec /bin/busybox sleep 1000\n", tmp_path)
    short = Deadlines(boot=4, silence=60, power_off=60, total=300)
    attempt, verdict, _ = booted(root=root, deadlines=short)
    assert verdict is KernelVerdict.BOOT_FAILURE
    assert attempt.end is BootEnd.BOOT_DEADLINE


# The guest.


def test_a_guest_without_python_is_a_boot_failure(booted: Boot, base: Path, tmp_path: Path) -> None:
    _, verdict, reason = booted(root=without(base, "usr/bin/python3", tmp_path))
    assert verdict is KernelVerdict.BOOT_FAILURE
    assert "python3: not found" in reason


def test_a_python_that_crashes_at_once_is_a_boot_failure(booted: Boot) -> None:
    _, verdict, reason = booted(extra={CHECKER: b"raise RuntimeError('of its own')\n"})
    assert verdict is KernelVerdict.BOOT_FAILURE
    assert "RuntimeError: of its own" in reason


def test_a_python_that_crashes_in_a_check_is_lost(booted: Boot) -> None:
    attempt, verdict, reason = booted(extra=in_the_first_check("os.kill(os.getpid(), 11)"))
    assert verdict is KernelVerdict.LOST
    assert reason == "the guest ended without its closing event"
    assert attempt.stream.said_hello


def test_a_vm_that_reboots_by_itself_is_lost(booted: Boot) -> None:
    judged = booted(extra=in_the_first_check("os.system('reboot -f')"))
    assert judged[1] is KernelVerdict.LOST
    assert "Restarting system" in console(judged)
    assert console(judged).count("Linux version") == 1


def test_a_vm_that_does_not_power_off_hangs(booted: Boot, base: Path, tmp_path: Path) -> None:
    init = replaced(initramfs.INIT, "poweroff -f || reboot -f", "/bin/busybox sleep 1000")
    short = Deadlines(boot=120, silence=60, power_off=0.5, total=300)
    attempt, verdict, _ = booted(root=with_init(base, init, tmp_path), deadlines=short)
    assert verdict is KernelVerdict.HANG
    assert attempt.end is BootEnd.POWER_OFF_DEADLINE
    assert attempt.stream.closed


# The kernel's surroundings.


def test_compressed_modules_are_loaded(harness: Harness, cache: Cache, tmp_path: Path) -> None:
    """Debian's 6.1 needs six modules for the event channel, as .ko; from 6.12 on they are .xz."""
    old = debian(cache, "bookworm")
    directory = tmp_path / "lib/modules" / old.release / "kernel"
    directory.mkdir(parents=True)
    for module in old.modules:
        (directory / f"{module.name}.xz").write_bytes(lzma.compress(module.read_bytes(), preset=0))
    run = harness(
        *("check", str(old.boot_image), "--modules", str(tmp_path)),
        *("--family", "ipv4", "--check", "mptcp_info.readable"),
    )
    assert run.status == 0, run.stdout
    (found,) = run.record["kernels"]
    assert found["verdict"] == "pass"


# QEMU.


def test_a_qemu_that_is_killed_is_infrastructure(booted: Boot, qemu: Qemu) -> None:
    attempt, verdict, reason = booted(on_check=qemu.kill)
    assert attempt.end is BootEnd.VMM_DIED
    assert verdict is KernelVerdict.INFRASTRUCTURE
    assert "QEMU ended with status 137" in reason


@pytest.mark.parametrize(
    ("last", "words"),
    [
        pytest.param(
            'exec "$real" -no-such-option "$@"',
            "-no-such-option: invalid option",
            id="refuses an argument",
        ),
        pytest.param('exec "$real" "$@" -machine x', "unsupported machine type", id="too old"),
        pytest.param('ulimit -v 400000; exec "$real" "$@"', "Cannot allocate memory", id="memory"),
        pytest.param("kill -ABRT $$", "QEMU ended with status 134", id="aborts"),
        pytest.param("exec /nowhere/qemu", "QEMU ended with status 127", id="missing"),
    ],
)
def test_a_qemu_that_does_not_start_the_kernel_is_infrastructure(
    booted: Boot, qemu: Qemu, last: str, words: str
) -> None:
    qemu.runs(last)
    _, verdict, reason = booted()
    assert verdict is KernelVerdict.INFRASTRUCTURE, reason
    assert words in reason


def test_a_qemu_that_is_not_there_is_said_before_anything_is_booted(
    harness: Harness, kernel: PreparedKernel
) -> None:
    run = harness("check", str(kernel.boot_image), PATH="/nowhere")
    assert run.status == 3
    assert "this host lacks qemu-system-x86_64" in run.stderr
    assert "install" in run.stderr


# The host.


def test_a_clock_that_is_set_meanwhile_changes_nothing_for_a_kernel_without_9p_and_virtiofs(
    booted: Boot, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Debian's kernel for clouds has no 9p at all, and virtiofs as a module."""
    year = 365 * 86400.0
    real = time.time
    steps: Iterator[float] = iter(year * (-1) ** i for i in range(10**9))
    monkeypatch.setattr(time, "time", lambda: real() + next(steps))
    attempt, verdict, reason = booted(kernel=debian(cache, "trixie", "linux-image-cloud-amd64"))
    assert verdict is KernelVerdict.PASS, reason
    assert 0 < attempt.total_s < PATIENT.total


@pytest.fixture
def small_disk() -> Callable[[Path, int], list[str]]:
    """A command that runs those behind it with a disk of so many KiB at a directory."""

    def prefix(place: Path, kib: int) -> list[str]:
        place.mkdir(exist_ok=True)
        script = f'mount -t tmpfs -o size={kib}k,mode=1777 none "$0" && exec "$@"'
        namespace = ["unshare", "--map-root-user", "--mount", "sh", "-c"]
        command = [*namespace, script, str(place)]
        tried = subprocess.run([*command, "true"], capture_output=True, text=True)
        if tried.returncode:
            reason = f"no disk can be mounted in a namespace: {tried.stderr.strip()}"
            pytest.fail(reason) if all_required() else pytest.skip(reason)
        return command

    return prefix


def full(
    command: list[str], *arguments: str, **environment: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*command, sys.executable, "-m", "harness", "check", *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
    )


QUICK = ("--family", "ipv4", "--check", "mptcp_info.readable")


def test_a_full_disk_below_the_vm_is_infrastructure(
    small_disk: Callable[[Path, int], list[str]],
    cache: Cache,
    kernel: PreparedKernel,
    tmp_path: Path,
    temporary: Path,
) -> None:
    done = full(
        small_disk(temporary, 4096),
        *(str(kernel.boot_image), *QUICK),
        *("--cache", str(cache.root), "--output", str(tmp_path / "run")),
        TMPDIR=str(temporary),
    )
    assert done.returncode == 3, done.stdout + done.stderr
    assert "infrastructure" in done.stdout
    assert "No space left on device" in done.stdout
    assert "Traceback" not in done.stderr


def test_a_full_disk_below_the_run_is_said(
    small_disk: Callable[[Path, int], list[str]],
    cache: Cache,
    kernel: PreparedKernel,
    tmp_path: Path,
) -> None:
    done = full(
        small_disk(tmp_path / "full", 8),
        *(str(kernel.boot_image), *QUICK),
        *("--cache", str(cache.root), "--output", str(tmp_path / "full" / "run")),
    )
    assert done.returncode == 3, done.stdout + done.stderr
    assert "No space left on device" in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_of_two_harnesses_on_one_directory_one_is_refused(
    cache: Cache, kernel: PreparedKernel, tmp_path: Path
) -> None:
    command = [
        *(sys.executable, "-m", "harness", "check", str(kernel.boot_image), *QUICK),
        *("--output", str(tmp_path / "run"), "--cache", str(cache.root)),
    ]
    both = [
        subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    said = [(process.communicate(timeout=300), process.returncode) for process in both]
    assert sorted(status for _, status in said) == [0, 2], said
    (refusal,) = (errors for (_, errors), status in said if status == 2)
    assert str(tmp_path / "run") in refusal
    assert "--output" in refusal
    assert (tmp_path / "run" / "run.json").exists()


# What the guest sees.

LOOKS_AROUND = b"""
import os
def text(path):
    try:
        with open(path) as file:
            return file.read()
    except OSError:
        return ""
def names(path):
    try:
        return sorted(os.listdir(path))
    except OSError:
        return None
seen = {
    "root": names("/"),
    "home": names("/home"),
    "root's home": names("/root"),
    "etc": names("/etc"),
    "mounts": [line.split()[2] for line in text("/proc/mounts").splitlines()],
    "network": [line.split(":")[0].strip() for line in text("/proc/net/dev").splitlines()[2:]],
    "routes": text("/proc/net/route").splitlines()[1:],
    "disks": names("/sys/class/block"),
    "environment": sorted(os.environ),
}
print("\\nSEEN " + ascii(seen) + " SEEN")
"""


def test_the_guest_sees_no_file_of_the_host_and_no_network(booted: Boot, qemu: Qemu) -> None:
    """Its program ends with status 0 and without an event: that is a boot failure."""
    judged = booted(extra={CHECKER: LOOKS_AROUND})
    assert judged[1] is KernelVerdict.BOOT_FAILURE
    assert "before the checker reported anything" in judged[2]
    assert "command ended with status 0" in console(judged)
    match = re.search(r"^SEEN (.*) SEEN", console(judged), re.MULTILINE)
    assert match
    seen = ast.literal_eval(match[1])
    ours = {name.partition("/")[0] for name in initramfs.DIRECTORIES} | {"init", "lib", "lib64"}
    assert set(seen["root"]) <= ours | {"root"}  # which the kernel itself makes, empty
    python = Path(sys.base_prefix)
    packed = python.relative_to("/root").parts[:1] if python.is_relative_to("/root") else ()
    assert set(seen["root's home"]) <= set(packed)
    assert seen["home"] is None
    assert seen["etc"] == ["fstab"]  # what init mounts
    assert set(seen["mounts"]) == {"rootfs", "proc", "sysfs", "devtmpfs"}
    assert seen["network"] == ["lo"]
    assert seen["routes"] == []
    assert not [name for name in seen["disks"] if not re.match(r"loop|ram|fd|sr", name)]
    assert not {"USER", "HOSTNAME", "MAIL", "SSH_AUTH_SOCK"} & set(seen["environment"])


def test_qemu_offers_the_guest_no_directory_of_the_hosts_and_no_network(
    booted: Boot, qemu: Qemu
) -> None:
    """A kernel with 9p could mount what virtme-ng shares, and write to files of its ports."""
    qemu.runs("exit 1")
    booted()
    arguments = qemu.arguments
    assert not [word for word in arguments if word.startswith(("local,", "virtio-9p"))]
    ports = [word for word in arguments if word.startswith("virtserialport,")]
    assert [re.findall("name=([^,]+)", port) for port in ports] == [[PORT]]
    files = [word for word in arguments if word.startswith(("file,", "stdio,"))]
    assert [re.findall("id=([^,]+)", word) for word in files] == [["console"]]
    assert arguments[arguments.index("-net") + 1] == "none"
    assert not {"-drive", "-hda", "-netdev", "-nic", "-virtfs", "-fsdev"} & set(arguments)


#: What a manifest may hold, and a shell gives a meaning to where it is not quoted.
ODD = "a=(b) a=* * ? a=~ ~ a=#b #a a={b,c} a=[b] !a a=!! a=^b a=%s a=@b a=b,c=d a:b,"


def test_kernel_arguments_reach_qemu_as_they_stand_in_the_manifest(
    booted: Boot, qemu: Qemu, tmp_path: Path
) -> None:
    """Through virtme-ng, which hands them to a shell."""
    file = tmp_path / "kernels.yaml"
    file.write_text(f"kernels:\n  - name: k\n    upstream: v6.6\n    append: '{ODD}'\n")
    (entry,) = kernels_yaml.load(file).entries
    qemu.runs("exit 1")
    booted(append=entry.append)
    arguments = qemu.arguments
    assert f" {ODD} " in arguments[arguments.index("-append") + 1]
