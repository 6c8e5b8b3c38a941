# SPDX-License-Identifier: GPL-2.0-only
import errno
import importlib.metadata
import os
import shutil
import struct
import sys
import sysconfig
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.host import tools

QEMU, BUSYBOX, LDD = tools.TOOLS
PT_LOAD, PT_INTERP = 1, 3

#: Stands for apt-get: notes how it was called, and "installs" what lies in the archive, which
#: `update` makes known.
APT_GET = """\
#!/bin/sh
echo "$@" >>"{here}/calls"
echo "$DEBIAN_FRONTEND $http_proxy" >>"{here}/environment"
case "$*" in
    update) : >"{here}/known" ;;
    install*)
        if [ ! -e "{here}/known" ]; then
            echo "E: Unable to locate package libc-bin" >&2
            exit 100
        fi
        cp "{here}/archive/"* "{here}/bin/" ;;
esac
"""
SUDO_THAT_ASKS = "#!/bin/sh\necho 'sudo: a password is required' >&2\nexit 1\n"
SUDO_THAT_OBEYS = """\
#!/bin/sh
echo "$@" >>"{here}/sudo"
while [ "${{1#-}}" != "$1" ]; do shift; done
exec "$@"
"""


class Machine:
    """A host of ours: nothing but what is put into ``bin``."""

    def __init__(self, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.here = here
        self.bin = here / "bin"
        self.archive = here / "archive"
        self.said: list[str] = []
        for directory in (self.bin, self.archive):
            directory.mkdir()
        for program in ("sh", "cp"):
            (self.bin / program).symlink_to(shutil.which(program) or "")
        (here / "status").write_text("Package: dpkg\n")
        monkeypatch.setenv("PATH", str(self.bin))
        monkeypatch.setattr(tools, "SBIN", ())
        monkeypatch.setattr(sysconfig, "get_path", lambda _: str(self.bin))
        monkeypatch.setattr(tools, "DPKG_STATUS", here / "status")

    def add(self, program: str, text: str = "#!/bin/sh\n", where: Path | None = None) -> Path:
        path = (where or self.bin) / program
        path.write_text(text.format(here=self.here) if "{here}" in text else text)
        path.chmod(0o755)
        return path

    def add_binary(self, program: str, data: bytes) -> Path:
        path = self.add(program)
        path.write_bytes(data)
        return path

    def lines(self, name: str) -> list[str]:
        path = self.here / name
        return path.read_text().splitlines() if path.exists() else []

    def install(self, *missing: tools.Tool) -> None:
        tools.install(missing, self.said.append)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(tmp_path, monkeypatch)


@pytest.fixture
def as_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)


@pytest.fixture
def as_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)


def elf(*segments: int, machine: int = 62) -> bytes:
    """The head of an ELF64 program with program headers of these types."""
    identity = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    header = struct.pack(
        "<16sHHIQQQIHHHHHH", identity, 2, machine, 1, 0, 64, 0, 0, 64, 56, len(segments), 0, 0, 0
    )
    return header + b"".join(struct.pack("<I52x", kind) for kind in segments)


def test_a_program_is_found_outside_of_path_where_administrators_have_it(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    sbin = tmp_path / "sbin"
    sbin.mkdir()
    machine.add("ldd", where=sbin)
    monkeypatch.setattr(tools, "SBIN", (str(sbin),))
    assert tools.find("ldd") == sbin / "ldd"


def test_a_program_that_is_nowhere_is_none(machine: Machine) -> None:
    assert tools.find("ldd") is None


def test_everything_is_missing_on_a_bare_host(machine: Machine) -> None:
    assert tools.missing() == tools.TOOLS


def test_what_is_there_is_not_missing(machine: Machine) -> None:
    machine.add("ldd")
    assert tools.missing() == (QEMU, BUSYBOX)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(elf(PT_LOAD, PT_INTERP), id="dynamic"),
        pytest.param(elf(PT_LOAD, machine=183), id="arm64"),
        pytest.param(elf(PT_LOAD)[:70], id="truncated"),
        pytest.param(elf(PT_LOAD)[:30], id="truncated header"),
        pytest.param(elf(), id="no segments"),
        pytest.param(b'#!/bin/sh\nexec /opt/busybox "$@"\n' + bytes(64), id="script"),
        pytest.param(b"", id="empty"),
    ],
)
def test_a_busybox_that_is_no_static_program_does_not_count(machine: Machine, data: bytes) -> None:
    machine.add_binary("busybox", data)
    assert tools.find_static_busybox() is None


def test_a_real_dynamic_program_does_not_count(machine: Machine) -> None:
    (machine.bin / "busybox").symlink_to(sys.executable)
    assert tools.find_static_busybox() is None


def test_a_static_busybox_counts(machine: Machine) -> None:
    static = machine.add_binary("busybox", elf(PT_LOAD))
    assert tools.find_static_busybox() == static


def test_a_static_busybox_counts_beside_a_dynamic_one(machine: Machine) -> None:
    machine.add_binary("busybox", elf(PT_LOAD, PT_INTERP))
    static = machine.add_binary("busybox.static", elf(PT_LOAD))
    assert tools.find_static_busybox() == static


@pytest.mark.usefixtures("as_root")
def test_the_command_names_each_package_once(machine: Machine) -> None:
    machine.add("apt-get")
    command = tools.install_command([QEMU, *tools.DEB_TOOLS])
    assert command == [
        *("apt-get", "install", "-y", "--no-install-recommends", "qemu-system-x86"),
        *("apt", "dpkg"),
    ]


@pytest.mark.usefixtures("as_user")
def test_a_user_is_told_to_use_sudo(machine: Machine) -> None:
    machine.add("apt-get")
    machine.add("sudo")
    command = tools.install_command([LDD])
    assert command is not None
    assert command[:3] == ["sudo", "apt-get", "install"]


@pytest.mark.usefixtures("as_user")
def test_a_user_without_sudo_is_told_to_use_su(machine: Machine) -> None:
    machine.add("apt-get")
    assert tools.install_command([LDD]) == [
        *("su", "-l", "-c", "apt-get install -y --no-install-recommends libc-bin")
    ]


def test_without_apt_there_is_no_command(machine: Machine) -> None:
    assert tools.install_command(tools.TOOLS) is None


def test_an_apt_that_does_not_manage_the_system_gives_no_command(machine: Machine) -> None:
    machine.add("apt-get")
    (machine.here / "status").write_text("")
    assert tools.install_command(tools.TOOLS) is None


def test_without_apt_the_packages_are_named(machine: Machine) -> None:
    text = str(tools.ToolsMissing([QEMU, BUSYBOX]))
    assert "sudo dnf install qemu-system-x86 busybox;" in text
    assert "what Debian calls qemu-system-x86 busybox-static" in text


@pytest.mark.usefixtures("as_root")
def test_what_is_missing_is_said_with_the_command_that_mends_it(machine: Machine) -> None:
    machine.add("apt-get")
    assert str(tools.ToolsMissing([QEMU, LDD])) == (
        "this host lacks qemu-system-x86_64, ldd; install what is missing with: "
        "apt-get install -y --no-install-recommends qemu-system-x86 libc-bin"
    )


def test_nothing_is_done_when_nothing_is_missing(machine: Machine) -> None:
    machine.install()
    assert machine.said == []


@pytest.mark.usefixtures("as_root")
def test_root_installs_without_asking(machine: Machine) -> None:
    machine.add("apt-get", APT_GET)
    machine.add("ldd", where=machine.archive)
    (machine.here / "known").touch()
    machine.install(LDD)
    assert machine.lines("calls") == [
        "install -y --no-install-recommends -o DPkg::Lock::Timeout=120 libc-bin"
    ]
    assert tools.locate(LDD) == machine.bin / "ldd"


@pytest.mark.usefixtures("as_root")
def test_lists_are_read_when_a_package_is_not_known(machine: Machine) -> None:
    machine.add("apt-get", APT_GET)
    machine.add("ldd", where=machine.archive)
    machine.install(LDD)
    assert [call.split()[0] for call in machine.lines("calls")] == ["install", "update", "install"]


@pytest.mark.usefixtures("as_root")
def test_debconf_does_not_ask(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.add("apt-get", APT_GET)
    machine.add("ldd", where=machine.archive)
    monkeypatch.delenv("http_proxy", raising=False)
    monkeypatch.delenv("HTTP_PROXY", raising=False)
    machine.install(LDD)
    assert set(machine.lines("environment")) == {"noninteractive "}


@pytest.mark.parametrize("name", ["http_proxy", "HTTP_PROXY"])
@pytest.mark.usefixtures("as_root")
def test_apt_gets_the_proxy(machine: Machine, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    machine.add("apt-get", APT_GET)
    machine.add("ldd", where=machine.archive)
    monkeypatch.delenv("http_proxy", raising=False)
    monkeypatch.delenv("HTTP_PROXY", raising=False)
    monkeypatch.setenv(name, "http://proxy.example.org:3128")
    machine.install(LDD)
    assert set(machine.lines("environment")) == {"noninteractive http://proxy.example.org:3128"}


@pytest.mark.usefixtures("as_user")
def test_a_user_installs_through_a_sudo_that_does_not_ask(machine: Machine) -> None:
    machine.add("apt-get", APT_GET)
    machine.add("sudo", SUDO_THAT_OBEYS)
    machine.add("true")
    machine.add("ldd", where=machine.archive)
    machine.install(LDD)
    assert tools.locate(LDD) == machine.bin / "ldd"


@pytest.mark.usefixtures("as_user")
def test_sudo_keeps_a_proxy_without_showing_it(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.add("apt-get", APT_GET)
    machine.add("sudo", SUDO_THAT_OBEYS)
    machine.add("true")
    machine.add("ldd", where=machine.archive)
    monkeypatch.setenv("https_proxy", "http://user:secret@proxy.example.org:3128")
    machine.install(LDD)
    calls = machine.lines("sudo")[1:]
    kept = [call.split("--preserve-env=")[1].split()[0].split(",") for call in calls]
    assert all({"DEBIAN_FRONTEND", "https_proxy"} <= set(names) for names in kept)
    assert "secret" not in "".join(calls)


@pytest.mark.parametrize(
    "prepare",
    [
        pytest.param(lambda machine: machine.add("sudo", SUDO_THAT_ASKS), id="sudo asks"),
        pytest.param(lambda machine: None, id="no sudo"),
    ],
)
@pytest.mark.usefixtures("as_user")
def test_a_user_who_would_be_asked_gets_the_command_at_once(
    machine: Machine, prepare: Callable[[Machine], object]
) -> None:
    machine.add("apt-get", APT_GET)
    prepare(machine)
    with pytest.raises(tools.ToolsMissing, match="apt-get install -y"):
        machine.install(LDD)
    assert machine.lines("calls") == []


@pytest.mark.usefixtures("as_root")
def test_without_apt_nothing_is_tried(machine: Machine) -> None:
    with pytest.raises(tools.ToolsMissing, match="this system's package manager"):
        machine.install(LDD)
    assert machine.said == []


@pytest.mark.usefixtures("as_root")
def test_a_failed_installation_says_what_apt_said(machine: Machine) -> None:
    machine.add("apt-get", "#!/bin/sh\necho 'E: Unable to locate package libc-bin' >&2\nexit 100\n")
    with pytest.raises(tools.ToolsMissing, match=r"ldd \(.*Unable to locate package libc-bin\); "):
        machine.install(LDD)


@pytest.mark.usefixtures("as_root")
def test_a_package_that_lacks_its_program_is_no_success(machine: Machine) -> None:
    machine.add("apt-get")
    with pytest.raises(tools.ToolsMissing, match="installed the packages, but they lack it"):
        machine.install(LDD)


def finding(subject: str, cache: Path) -> tools.Finding:
    return next(found for found in tools.doctor(cache) if found.subject == subject)


def test_the_doctor_looks_at_every_tool(machine: Machine) -> None:
    subjects = {found.subject for found in tools.doctor(machine.here)}
    assert {tool.name for tool in (*tools.TOOLS, *tools.DEB_TOOLS)} < subjects


def test_the_doctor_says_how_to_get_what_is_missing(machine: Machine) -> None:
    machine.add("apt-get", "#!/bin/sh\necho apt 2.6.1\n")
    found = finding("ldd", machine.here)
    assert found.standing is tools.Standing.MISSING
    assert found.remedy.rstrip("'").endswith("install -y --no-install-recommends libc-bin")


@pytest.mark.parametrize(
    ("said", "version"),
    [
        ("QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18)", "7.2.22"),
        ("QEMU emulator version 10.0.2", "10.0.2"),
        ("QEMU emulator version 6.0", "6.0"),
    ],
)
def test_a_qemu_that_is_new_enough_is_fine(machine: Machine, said: str, version: str) -> None:
    path = machine.add("qemu-system-x86_64", f"#!/bin/sh\necho '{said}'\n")
    assert finding(QEMU.name, machine.here) == tools.Finding(
        QEMU.name, tools.Standing.OK, str(path), version
    )


def test_a_qemu_that_is_too_old_is_said(machine: Machine) -> None:
    machine.add("qemu-system-x86_64", "#!/bin/sh\necho QEMU emulator version 5.2.0\n")
    found = finding(QEMU.name, machine.here)
    assert (found.standing, found.version) == (tools.Standing.LIMITED, "5.2.0")
    assert "6.0 or later" in found.remedy


def test_a_qemu_that_does_not_run_counts_as_missing(machine: Machine) -> None:
    machine.add("qemu-system-x86_64", "#!/bin/sh\necho 'libfdt.so.1: not found' >&2\nexit 127\n")
    found = finding(QEMU.name, machine.here)
    assert found.standing is tools.Standing.MISSING
    assert "libfdt.so.1: not found" in found.found


def test_tools_of_deb_kernels_are_not_needed_for_all_kernels(machine: Machine) -> None:
    assert finding("dpkg-deb", machine.here).standing is tools.Standing.LIMITED


def test_no_kvm_means_emulation(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tools, "KVM", machine.here / "kvm")
    found = finding(str(machine.here / "kvm"), machine.here)
    assert (found.standing, found.found) == (
        tools.Standing.LIMITED,
        "absent; kernels are emulated",
    )
    assert "nested virtualisation" in found.remedy


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        pytest.param(errno.EACCES, "usermod -aG kvm", id="not in the group"),
        pytest.param(errno.EPERM, "start it with --device", id="container"),
        pytest.param(errno.ENODEV, "dmesg", id="no module"),
    ],
)
def test_a_kvm_that_does_not_open_is_said(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, number: int, remedy: str
) -> None:
    kvm = machine.here / "kvm"
    really_open = os.open

    def refuse(path: str | Path, flags: int) -> int:  # root may open everything
        if path == kvm:
            raise OSError(number, os.strerror(number))
        return really_open(path, flags)

    monkeypatch.setattr(tools, "KVM", kvm)
    monkeypatch.setattr(os, "open", refuse)
    assert remedy in finding(str(kvm), machine.here).remedy


def test_a_kvm_that_opens_is_not_yet_believed(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    kvm = machine.here / "kvm"
    kvm.touch()
    monkeypatch.setattr(tools, "KVM", kvm)
    assert finding(str(kvm), machine.here).found == (
        "can be opened; a trial boot shows whether it works"
    )


def test_the_disk_of_a_cache_that_does_not_exist_yet_is_found(machine: Machine) -> None:
    cache = machine.here / "not" / "there"
    assert f"free for {cache}" in finding("disk", cache).found


@pytest.mark.parametrize(
    ("available", "standing"),
    [(600 * 1024, tools.Standing.LIMITED), (900 * 1024, tools.Standing.OK)],
)
def test_little_memory_is_said(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, available: int, standing: tools.Standing
) -> None:
    record(machine.here, monkeypatch, {"proc/meminfo": meminfo(available // 1024)})
    assert finding("memory", machine.here).standing is standing


def record(
    here: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], processors: int = 8
) -> None:
    """Let /proc and /sys be these files, recorded elsewhere."""
    for name, text in files.items():
        (here / name).parent.mkdir(parents=True, exist_ok=True)
        (here / name).write_text(text)
    monkeypatch.setattr(tools, "SYSTEM", here)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(processors)))


def meminfo(available: int) -> str:
    return f"MemTotal:       33554432 kB\nMemAvailable:   {available * 1024} kB\n"


MIB = 1 << 20
#: systemd, as in Debian 12: a service with CPUQuota=250% and MemoryMax=1G in a slice of its own.
VERSION_2 = {
    "proc/meminfo": meminfo(16000),
    "proc/self/cgroup": "0::/ci.slice/ci.service\n",
    "proc/self/mountinfo": (
        "22 27 0:20 / /sys rw,nosuid,nodev,noexec,relatime shared:7 - sysfs sysfs rw\n"
        "29 22 0:26 / /sys/fs/cgroup rw,nosuid,nodev,noexec,relatime shared:9 - cgroup2 cgroup2 "
        "rw,nsdelegate,memory_recursiveprot\n"
    ),
    "sys/fs/cgroup/ci.slice/cpu.max": "max 100000\n",
    "sys/fs/cgroup/ci.slice/memory.max": "max\n",
    "sys/fs/cgroup/ci.slice/memory.current": f"{400 * MIB}\n",
    "sys/fs/cgroup/ci.slice/ci.service/cpu.max": "250000 100000\n",
    "sys/fs/cgroup/ci.slice/ci.service/memory.max": f"{1024 * MIB}\n",
    "sys/fs/cgroup/ci.slice/ci.service/memory.current": f"{300 * MIB}\n",
    "sys/fs/cgroup/ci.slice/ci.service/memory.stat": (
        f"anon {100 * MIB}\nfile {200 * MIB}\ninactive_anon 0\ninactive_file {150 * MIB}\n"
    ),
}
#: Version 1 in a container that is told the path of the whole tree and sees its part of it.
VERSION_1 = {
    "proc/meminfo": meminfo(16000),
    "proc/self/cgroup": (
        "11:memory:/docker/0c12b2f5\n4:cpu,cpuacct:/docker/0c12b2f5\n1:name=systemd:/docker/0c12\n"
    ),
    "proc/self/mountinfo": (
        "31 23 0:28 / /sys/fs/cgroup ro,relatime - tmpfs tmpfs rw,mode=755\n"
        "32 31 0:29 /docker/0c12b2f5 /sys/fs/cgroup/cpu,cpuacct ro,relatime - cgroup cgroup "
        "rw,cpu,cpuacct\n"
        "35 31 0:32 /docker/0c12b2f5 /sys/fs/cgroup/memory ro,relatime - cgroup cgroup rw,memory\n"
        "36 31 0:33 /docker/0c12 /sys/fs/cgroup/systemd ro - cgroup systemd rw,name=systemd\n"
    ),
    "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "150000\n",
    "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "50000\n",
    "sys/fs/cgroup/memory/memory.limit_in_bytes": f"{2048 * MIB}\n",
    "sys/fs/cgroup/memory/memory.usage_in_bytes": f"{1000 * MIB}\n",
    "sys/fs/cgroup/memory/memory.stat": f"inactive_file 0\ntotal_inactive_file {500 * MIB}\n",
}
#: Both at once, without a limit: version 2 beside version 1, which has the controllers.
HYBRID = {
    "proc/meminfo": meminfo(16000),
    "proc/self/cgroup": "4:memory:/api/0c12\n1:cpu:/\n0::/\n",
    "proc/self/mountinfo": (
        "32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu\n"
        "35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n"
        "41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n"
    ),
    "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
    "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
    "sys/fs/cgroup/memory/api/0c12/memory.limit_in_bytes": "9223372036854771712\n",
    "sys/fs/cgroup/memory/api/0c12/memory.usage_in_bytes": f"{500 * MIB}\n",
    "sys/fs/cgroup/unified/cgroup.controllers": "\n",
}
#: A process outside the tree that its namespace of cgroups shows (cgroup_namespaces(7)).
OUTSIDE = {**VERSION_2, "proc/self/cgroup": "0::/../other.service\n"}


@pytest.mark.parametrize(
    ("files", "usable", "available"),
    [
        pytest.param(VERSION_2, 2, 1024 - 300 + 150, id="version 2"),
        pytest.param(VERSION_1, 3, 2048 - 1000 + 500, id="version 1"),
        pytest.param(HYBRID, 8, 16000, id="hybrid, unlimited"),
        pytest.param(OUTSIDE, 8, 16000, id="outside"),
        pytest.param({"proc/meminfo": meminfo(16000)}, 8, 16000, id="no cgroups"),
    ],
)
def test_the_limits_of_cgroups_count(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    files: dict[str, str],
    usable: int,
    available: int,
) -> None:
    record(tmp_path, monkeypatch, files)
    assert (tools.processors(), tools.available_memory_mib()) == (usable, available)


def test_a_limit_further_up_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    above = {
        "sys/fs/cgroup/ci.slice/cpu.max": "100000 100000\n",
        "sys/fs/cgroup/ci.slice/memory.max": f"{500 * MIB}\n",
    }
    record(tmp_path, monkeypatch, {**VERSION_2, **above})
    assert (tools.processors(), tools.available_memory_mib()) == (1, 100)


def test_less_than_a_processor_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    little = {"sys/fs/cgroup/ci.slice/cpu.max": "20000 100000\n"}
    record(tmp_path, monkeypatch, {**VERSION_2, **little})
    assert tools.processors() == 1


def test_a_group_over_its_limit_has_nothing_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = {"sys/fs/cgroup/ci.slice/ci.service/memory.max": f"{100 * MIB}\n"}
    record(tmp_path, monkeypatch, {**VERSION_2, **full})
    assert tools.available_memory_mib() == 0


def test_the_affinity_of_the_process_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record(tmp_path, monkeypatch, VERSION_2, processors=1)
    assert tools.processors() == 1


def test_this_hosts_own_limits_can_be_read() -> None:
    assert 1 <= tools.processors() <= len(os.sched_getaffinity(0))
    assert tools.available_memory_mib() > 0


def test_a_virtme_ng_that_is_missing_is_said(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sysconfig, "get_path", lambda _: str(machine.here / "scripts"))
    found = finding("virtme-ng", machine.here)
    assert found.standing is tools.Standing.MISSING
    assert "pip install 'virtme-ng>=" in found.remedy


def test_virtme_ng_is_found_where_pip_puts_scripts(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripts = machine.here / "scripts"
    scripts.mkdir()
    monkeypatch.setattr(sysconfig, "get_path", lambda _: str(scripts))
    vng = machine.add("vng", "#!/bin/sh\necho virtme-ng 1.42\n", where=scripts)
    assert tools.find_virtme_ng() == vng
    assert finding("virtme-ng", machine.here) == tools.Finding(
        "virtme-ng", tools.Standing.OK, str(vng), "1.42"
    )


def test_a_virtme_ng_that_is_too_old_is_said(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sysconfig, "get_path", lambda _: str(machine.here / "scripts"))
    machine.add("vng", "#!/bin/sh\necho virtme-ng 1.9\n")
    assert "1.42 or later" in finding("virtme-ng", machine.here).remedy


def test_the_oldest_virtme_ng_stands_in_one_way() -> None:
    with (Path(__file__).parents[2] / "pyproject.toml").open("rb") as file:
        (wanted,) = (
            requirement.removeprefix("virtme-ng>=")
            for requirement in tomllib.load(file)["project"]["dependencies"]
            if requirement.startswith("virtme-ng>=")
        )
    assert ".".join(map(str, tools.VIRTME_NG.minimum)) == wanted
    assert f"'virtme-ng>={wanted}'" in tools.VIRTME_NG_REMEDY


@pytest.mark.parametrize(
    ("content", "found"), [("1\n", "turned on"), ("0\n", "turned off"), (None, "not there")]
)
def test_the_mptcp_of_the_running_kernel_is_said(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, content: str | None, found: str
) -> None:
    enabled = machine.here / "enabled"
    if content is not None:
        enabled.write_text(content)
    monkeypatch.setattr(tools, "MPTCP_ENABLED", enabled)
    assert finding("MPTCP of this kernel", machine.here).found.startswith(found)


def test_a_machine_with_many_processors_does_not_stretch_its_deadlines_without_bound(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`cpus: 64, timeout: 10` booted for 285 s on two processors."""
    monkeypatch.setattr(tools, "processors", lambda: 2)
    monkeypatch.setattr(tools, "_load", lambda: 0.0)
    assert tools.share(1, 64) == tools.MOST_SHARED
    assert tools.share(1, 1) == 0.5
    assert tools.share(6, 2) == 6


@pytest.mark.parametrize(
    ("loadavg", "share"),
    [
        ("0.42 0.30 0.20 1/300 4026", 1),
        ("3.90 0.30 0.20 1/300 4026", 1),  # what two machines are themselves
        ("6.00 0.30 0.20 1/300 4026", 3),
        ("19.26 19.00 13.27 12/300 4026", tools.MOST_SHARED),
        (None, 1),
    ],
)
def test_other_work_of_the_host_stretches_the_deadlines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loadavg: str | None, share: float
) -> None:
    """At a load of 20 on two processors, state.poll of a sound kernel did not end within 15 s."""
    monkeypatch.setattr(tools, "processors", lambda: 2)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    monkeypatch.setattr(tools, "SYSTEM", tmp_path)
    (tmp_path / "proc").mkdir()
    if loadavg is not None:
        (tmp_path / "proc" / "loadavg").write_text(loadavg + "\n")
    assert tools.share(2, 1) == share


@pytest.mark.parametrize("names", [(), ("virtme_ng-1.41.dist-info", "virtme_ng-1.42.dist-info")])
def test_where_its_metadata_is_not_there_once_virtme_ng_is_asked_for_as_any_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, names: tuple[str, ...]
) -> None:
    for name in names:
        (tmp_path / name).mkdir()
    monkeypatch.setattr(sysconfig, "get_path", lambda _: str(tmp_path))
    monkeypatch.setattr(importlib.metadata, "version", lambda name: f"that of {name}")
    assert tools.virtme_ng_version() == "that of virtme-ng"


def test_the_version_of_virtme_ng_is_that_of_its_metadata() -> None:
    assert tools.virtme_ng_version() == importlib.metadata.version("virtme-ng")
