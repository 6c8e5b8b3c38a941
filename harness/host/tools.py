# SPDX-License-Identifier: GPL-2.0-only
"""The tools that the host needs, and their installation. Standard library only: noxfile.py imports
this before any dependency is installed.
"""

from __future__ import annotations

import errno
import os
import re
import shlex
import shutil
import struct
import subprocess
import sysconfig
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from harness.errors import HostError
from harness.host.architectures import ARCHITECTURES, HOST, Arch

#: Directories that are not in the PATH of Debian's ordinary users.
SBIN = ("/usr/local/sbin", "/usr/sbin", "/sbin")
#: Not empty if dpkg manages the system; Fedora and others package apt, too.
DPKG_STATUS = Path("/var/lib/dpkg/status")
KVM = Path("/dev/kvm")
#: The directories in which a compiler looks for headers.
HEADERS = Path("/usr/include")
MPTCP_ENABLED = Path("/proc/sys/net/mptcp/enabled")
#: The root of /proc and /sys; in tests, of a recording.
SYSTEM = Path("/")

# Seconds that apt-get waits for another one, such as unattended-upgrades.
_APT_INSTALL = ("apt-get", "install", "-y", "--no-install-recommends")
_WAIT_FOR_LOCK = ("-o", "DPkg::Lock::Timeout=120")
_PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")
# Enough for one VM of 512 MiB, and for the largest unpacked kernel package.
_ENOUGH_MEMORY_MIB = 768
_ENOUGH_DISK_MIB = 2048


@dataclass(frozen=True)
class Tool:
    """A program of the host, any one of ``programs``; or a library, identified by its ``header``.

    ``minimum`` is the oldest version with which the harness is known to work.
    """

    name: str
    programs: tuple[str, ...]
    purpose: str
    debian: str  # the package that has it, in Debian and its descendants
    elsewhere: str  # in Fedora and Arch
    statically_linked: bool = False
    minimum: tuple[int, ...] = ()
    header: str = ""


def qemu_of(arch: Arch) -> Tool:
    """The QEMU that runs kernels of ``arch``."""
    data = ARCHITECTURES[arch]
    elsewhere = data.qemu if arch is not Arch.AMD64 else data.qemu_package
    return Tool(
        data.qemu,
        (data.qemu,),
        "runs the VMs" if arch is HOST else f"runs the VMs of {data.name}",
        debian=data.qemu_package,
        elsewhere=elsewhere,
        # The first with a Cortex-A76 and with pseries' x-vof.
        minimum=(6, 0) if arch is Arch.AMD64 else (7, 1),
    )


#: Without these, no kernel can be booted.
TOOLS = (
    qemu_of(HOST),
    Tool(
        "busybox (statically linked)",
        ("busybox-static", "busybox.static", "busybox"),  # the order in which virtme-ng looks
        "is the user space of the initramfs",
        debian="busybox-static",
        elsewhere="busybox",
        statically_linked=True,
    ),
    Tool("ldd", ("ldd",), "finds the libraries of the guest's Python", "libc-bin", "glibc"),
)
#: Without these, `deb:` kernels cannot be fetched, but all others can be booted.
DEB_TOOLS = (
    Tool("apt-get", ("apt-get",), "fetches deb: kernels", "apt", "apt"),
    Tool("apt-cache", ("apt-cache",), "finds deb: kernels", "apt", "apt"),
    Tool("dpkg-deb", ("dpkg-deb",), "unpacks deb: kernels", "dpkg", "dpkg"),
)
#: Not packaged by every distribution: pip installs it with the harness. pyproject.toml also has its
#: minimum version.
VIRTME_NG = Tool("virtme-ng", ("vng",), "boots the VMs", debian="", elsewhere="", minimum=(1, 42))
VIRTME_NG_REMEDY = (
    "install it with the pip of the Python that runs this: pip install 'virtme-ng>=1.42'"
)


class ToolsMissing(HostError):
    """The host lacks ``tools``; the text ends in the command that installs them."""

    def __init__(self, tools: Sequence[Tool], why: str = "") -> None:
        self.tools = tuple(tools)
        lacking = ", ".join(tool.name for tool in tools)
        because = f" ({why})" if why else ""
        super().__init__(f"this host lacks {lacking}{because}; {_remedy(tools)}")


#: The most processors of one machine that count, see :func:`share`.
MOST_SHARED = 4


class Standing(StrEnum):
    OK = "ok"
    LIMITED = "limited"  # kernels can be tested, but slower, or not every kind of them
    MISSING = "missing"  # no kernel can be tested


@dataclass(frozen=True)
class Finding:
    """A line of :func:`doctor`: ``found`` says where or what; ``remedy`` is empty if all is
    well."""

    subject: str
    standing: Standing
    found: str
    version: str = ""
    remedy: str = ""


def find(program: str) -> Path | None:
    """The path of ``program``, in PATH or in a directory for system administration."""
    path = os.pathsep.join((os.environ.get("PATH", os.defpath), *SBIN))
    found = shutil.which(program, path=path)
    return Path(found) if found else None


def locate(tool: Tool) -> Path | None:
    """The program or header that proves ``tool``; None if it is missing."""
    if tool.header:
        header = HEADERS / tool.header
        return header if header.is_file() else None
    for program in tool.programs:
        path = find(program)
        if path and (not tool.statically_linked or _is_static(path)):
            return path
    return None


def find_static_busybox() -> Path | None:
    """A busybox that runs without libraries, as in an initramfs."""
    return locate(next(tool for tool in TOOLS if tool.statically_linked))


def virtme_ng_path() -> str:
    """PATH for virtme-ng: pip's scripts, its own directory, and the programs that it calls."""
    inherited = os.environ.get("PATH", os.defpath)
    return os.pathsep.join((sysconfig.get_path("scripts"), inherited, *SBIN))


def find_virtme_ng() -> Path | None:
    """virtme-ng's program; None if missing, see :data:`VIRTME_NG_REMEDY`."""
    found = shutil.which(VIRTME_NG.programs[0], path=virtme_ng_path())
    return Path(found) if found else None


def virtme_ng_version() -> str:
    """The version of the installed virtme-ng, from the name of its metadata."""
    suffix = ".dist-info"
    found = [*Path(sysconfig.get_path("purelib")).glob(f"virtme_ng-*{suffix}")]
    if len(found) == 1:
        return found[0].name.removesuffix(suffix).partition("-")[2]
    import importlib.metadata  # takes 25 ms

    return importlib.metadata.version("virtme-ng")


def missing(archs: Iterable[Arch] = ()) -> tuple[Tool, ...]:
    """The tools for booting kernels, also of ``archs``, that this host lacks."""
    return tuple(tool for tool in (*TOOLS, *others(archs)) if locate(tool) is None)


def others(archs: Iterable[Arch]) -> tuple[Tool, ...]:
    """The QEMUs of ``archs`` other than the host's own."""
    return tuple(qemu_of(arch) for arch in Arch if arch in set(archs) and arch is not HOST)


def install_command(tools: Iterable[Tool]) -> list[str] | None:
    """The command with which this user installs ``tools``; None if apt does not manage the system.

    It is for people and may ask for a password.
    """
    if not _has_apt():
        return None
    command = [*_APT_INSTALL, *_packages(tools)]
    if os.geteuid() == 0:
        return command
    return ["sudo", *command] if find("sudo") else ["su", "-l", "-c", shlex.join(command)]


def install(tools: Sequence[Tool], say: Callable[[str], None]) -> None:
    """Install ``tools`` with apt, as root or through sudo, without questions.

    Raises :class:`ToolsMissing` if that is not possible or fails.
    """
    if not tools:
        return
    privilege = _privilege()
    if privilege is None or not _has_apt():
        raise ToolsMissing(tools)
    packages = _packages(tools)
    say(f"installing {' '.join(packages)} with apt-get")
    command = [*privilege, *_APT_INSTALL, *_WAIT_FOR_LOCK, *packages]
    run = _run(command, timeout=None)
    why = ""
    if run.returncode != 0:
        say(
            "that failed; updating apt's package lists, which may be empty or old, and trying again"
        )
        update = _run([*privilege, "apt-get", "update"], timeout=None)
        run = _run(command, timeout=None)
        why = "; ".join(_complaint(each) for each in (update, run) if each.returncode != 0)
    absent = [tool for tool in tools if locate(tool) is None]
    if absent:
        raise ToolsMissing(absent, why or "apt-get installed the packages, but they lack it")


def apt_environment() -> dict[str, str]:
    """The environment for apt without questions and in English.

    apt only knows lower-case proxy variables, and dpkg requires /sbin in PATH.
    """
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C"}
    environment["PATH"] = os.pathsep.join((os.environ.get("PATH", os.defpath), *SBIN))
    for name in _PROXIES:
        value = os.environ.get(name, os.environ.get(name.upper()))
        if value is not None:
            environment[name] = value
    return environment


def doctor(cache: Path, archs: Iterable[Arch] = ()) -> tuple[Finding, ...]:
    """The tools that this host has and lacks, for kernels of ``archs`` too.

    ``cache`` is the directory of prepared kernels.
    """
    return (
        *(_examine(tool, locate(tool), Standing.MISSING, _remedy([tool])) for tool in TOOLS),
        _examine(VIRTME_NG, find_virtme_ng(), Standing.MISSING, VIRTME_NG_REMEDY),
        *(
            _examine(tool, locate(tool), Standing.LIMITED, _remedy([tool]))
            for tool in (*DEB_TOOLS, *others(archs))
        ),
        _machine(),
        _kvm(),
        _cpus(),
        _memory(),
        _disk(cache),
        _own_mptcp(),
    )


def _examine(tool: Tool, path: Path | None, when_absent: Standing, remedy: str) -> Finding:
    if path is None:
        return Finding(tool.name, when_absent, f"not found; it {tool.purpose}", "", remedy)
    try:
        run = _run([str(path), *([] if tool.statically_linked else ["--version"])])
    except (OSError, subprocess.TimeoutExpired) as error:
        return Finding(tool.name, when_absent, f"{path} does not run: {error}", "", remedy)
    number = re.search(r"\d+(?:\.\d+)*", run.stdout)
    if run.returncode != 0 or number is None:
        what = f"{path} does not report its version: {_complaint(run)}"
        return Finding(tool.name, when_absent, what, "", remedy)
    version = number[0]
    if tuple(map(int, version.split("."))) < tool.minimum:
        needed = ".".join(map(str, tool.minimum))
        remedy = f"install version {needed} or later; older versions are not known to work"
        return Finding(tool.name, Standing.LIMITED, str(path), version, remedy)
    return Finding(tool.name, Standing.OK, str(path), version)


def _machine() -> Finding:
    machine = os.uname().machine
    if machine in ("x86_64", "aarch64"):
        return Finding("processor", Standing.OK, machine)
    # The guest runs the host's Python.
    remedy = "run this on x86-64 or arm64"
    return Finding("processor", Standing.MISSING, machine, "", remedy)


def kvm_obstacle(device: Path) -> tuple[str, str] | None:
    """Why ``device``, /dev/kvm, cannot be opened, and the remedy; None if it can."""
    try:
        os.close(os.open(device, os.O_RDWR | os.O_CLOEXEC))
    except FileNotFoundError:
        return "absent", (
            "load kvm_intel or kvm_amd; in a VM, enable nested virtualisation; in a container, "
            f"start it with --device {device}"
        )
    except OSError as error:
        if error.errno == errno.EACCES:
            remedy = "sudo usermod -aG kvm $USER, then log in again"
            return "not permitted for this user", remedy
        if error.errno == errno.EPERM:
            return "not permitted in this container", f"start it with --device {device}"
        return f"unusable ({error.strerror})", "look at `dmesg | grep -i kvm`"
    return None


def _kvm() -> Finding:
    obstacle = kvm_obstacle(KVM)
    if obstacle is not None:
        found, remedy = obstacle
        slow = f"{found}; kernels are emulated"
        return Finding(str(KVM), Standing.LIMITED, slow, "", remedy)
    return Finding(str(KVM), Standing.OK, "can be opened; a trial boot shows whether it works")


def processors() -> int:
    """The number of processors for this process, by its affinity and cgroups."""
    quotas = [quota for quota in map(_cpu_quota, _cgroups("cpu")) if quota is not None]
    return max(1, int(min([len(os.sched_getaffinity(0)), *quotas])))


def share(vms: int, cpus: int) -> float:
    """The number of processors of ``vms`` machines with ``cpus`` each for each processor of the
    host.

    At most four of a machine count: most are idle most of the time, and deadlines must not grow
    with a number that the user may choose freely.

    Other work of the host counts where it leaves a machine half a processor or less: on one with a
    load of ten for each processor, checks that end in 2 s exceeded deadlines of 15 s.
    """
    ours = vms * min(cpus, MOST_SHARED * processors()) / processors()
    return max(ours, min(busy, MOST_SHARED)) if (busy := _load()) >= 2 else ours


def _load() -> float:
    """The host's load average of the last minute for each of its processors."""
    found = re.match(r"[0-9.]+", _read(SYSTEM / "proc/loadavg"))
    return float(found[0]) / (os.cpu_count() or 1) if found else 0.0


def available_memory_mib() -> int:
    """The memory available without swapping, on the host and in our cgroups."""
    found = re.search(r"^MemAvailable:\s*(\d+) kB$", _read(SYSTEM / "proc/meminfo"), re.MULTILINE)
    available = int(found[1]) * 1024 if found else 0
    left = [left for left in map(_memory_left, _cgroups("memory")) if left is not None]
    return min([available, *left]) >> 20


def _cgroups(controller: str) -> Iterator[Path]:
    """Our cgroups for ``controller`` and their parents, of either version, as far as visible
    (cgroups(7))."""
    lines = [line.split(":", 2) for line in _read(SYSTEM / "proc/self/cgroup").splitlines()]
    ours = {name: path for _, names, path in lines for name in names.split(",")}
    for line in _read(SYSTEM / "proc/self/mountinfo").splitlines():
        mount, _, file_system = line.partition(" - ")
        _, _, _, root, place, *_ = mount.split(" ")
        kind, _, options = file_system.split(" ", 2)
        name = "" if kind == "cgroup2" else controller
        if name not in ours or (kind != "cgroup2" and name not in options.split(",")):
            continue
        top = SYSTEM / place.lstrip("/")
        # A container sees its own part of the tree, but the path may be that in the whole tree.
        below = Path(os.path.relpath(ours[name], root))
        group = top if ".." in below.parts else top / below
        yield from (each for each in (group, *group.parents) if each.is_relative_to(top))


def _cpu_quota(group: Path) -> float | None:
    """The processors that ``group`` may use; None for all."""
    version_1 = f"{_read(group / 'cpu.cfs_quota_us')} {_read(group / 'cpu.cfs_period_us')}"
    quota, _, period = (_read(group / "cpu.max") or version_1).partition(" ")
    return int(quota) / int(period) if quota.isdecimal() else None


def _memory_left(group: Path) -> int | None:
    """The bytes that ``group`` may still allocate after dropping its page cache; None for all."""
    limit = _read(group / "memory.max") or _read(group / "memory.limit_in_bytes")
    used = _read(group / "memory.current") or _read(group / "memory.usage_in_bytes")
    if not limit.isdecimal() or not used.isdecimal():
        return None
    # Version 1 has the group's own value and the total including its children.
    files = re.findall(
        r"^(?:total_)?inactive_file (\d+)$", _read(group / "memory.stat"), re.MULTILINE
    )
    return max(0, int(limit) - int(used) + max(map(int, files), default=0))


def _read(path: Path) -> str:
    """The text of a kernel file; "" if there is none."""
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def _cpus() -> Finding:
    return Finding("CPUs", Standing.OK, f"{processors()} usable")


def _memory() -> Finding:
    remedy = "end other programs, or reduce memory: in kernels.yaml"
    return _amount("memory", available_memory_mib(), "available", _ENOUGH_MEMORY_MIB, remedy)


def _disk(cache: Path) -> Finding:
    existing = next(path for path in (cache, *cache.absolute().parents) if path.exists())
    free = shutil.disk_usage(existing).free // (1 << 20)
    remedy = "free some space there, or set XDG_CACHE_HOME to a directory on another disk"
    return _amount("disk", free, f"free for {cache}", _ENOUGH_DISK_MIB, remedy)


def _amount(subject: str, mib: int, what: str, enough: int, remedy: str) -> Finding:
    if mib >= enough:
        return Finding(subject, Standing.OK, f"{mib} MiB {what}")
    found = f"{mib} MiB {what}, {enough} wanted"
    return Finding(subject, Standing.LIMITED, found, "", remedy)


def _own_mptcp() -> Finding:
    subject = "MPTCP of this kernel"
    purpose = "needed only to run the checker without a VM"
    try:
        enabled = MPTCP_ENABLED.read_text().strip() != "0"
    except OSError:
        remedy = "none is needed for the matrix; a kernel with CONFIG_MPTCP for `python3 guest`"
        return Finding(subject, Standing.LIMITED, f"not there; {purpose}", "", remedy)
    if not enabled:
        remedy = "sudo sysctl net.mptcp.enabled=1"
        return Finding(subject, Standing.LIMITED, f"turned off; {purpose}", "", remedy)
    return Finding(subject, Standing.OK, f"turned on; {purpose}")


def _is_static(program: Path) -> bool:
    """Whether ``program`` is for this machine and needs no loader (elf(5): no PT_INTERP)."""
    load, interpreter, own = 1, 3, ARCHITECTURES[HOST].elf_machine
    try:
        with program.open("rb") as file:
            header = file.read(64)
            if len(header) < 64 or header[:6] != b"\x7fELF\x02\x01":
                return False
            (machine,) = struct.unpack_from("<H", header, 18)
            (offset,) = struct.unpack_from("<Q", header, 32)
            size, count = struct.unpack_from("<HH", header, 54)
            file.seek(offset)
            table = file.read(size * count)
    except (OSError, OverflowError):
        return False
    if machine != own or size < 4 or len(table) < size * count:
        return False
    kinds = {struct.unpack_from("<I", table, index * size)[0] for index in range(count)}
    return load in kinds and interpreter not in kinds


def _has_apt() -> bool:
    try:
        return find("apt-get") is not None and DPKG_STATUS.stat().st_size > 0
    except OSError:
        return False


def _packages(tools: Iterable[Tool]) -> list[str]:
    return list(dict.fromkeys(tool.debian for tool in tools))


def _remedy(tools: Sequence[Tool]) -> str:
    command = install_command(tools)
    if command is not None:
        return f"install what is missing with: {shlex.join(command)}"
    packages = " ".join(dict.fromkeys(tool.elsewhere for tool in tools))
    return (
        f"install what Debian calls {' '.join(_packages(tools))} with this system's package "
        f"manager; on Fedora: sudo dnf install {packages}; on Arch: sudo pacman -S {packages}"
    )


def _privilege() -> list[str] | None:
    """The prefix of a command that installs; None if it would ask for a password."""
    if os.geteuid() == 0:
        return []
    sudo = find("sudo")
    if sudo is None:
        return None
    try:
        if _run([str(sudo), "-n", "true"]).returncode != 0:
            return None
    except (OSError, subprocess.TimeoutExpired):
        return None
    # By name, because values on the command line would put a proxy's password into the system log.
    kept = [name for name in ("DEBIAN_FRONTEND", "LC_ALL", *_PROXIES) if name in apt_environment()]
    return [str(sudo), "-n", f"--preserve-env={','.join(kept)}"]


def _run(command: Sequence[str], timeout: float | None = 30) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        env=apt_environment(),
        timeout=timeout,
    )


def _complaint(run: subprocess.CompletedProcess[str]) -> str:
    """The last error line, without its full stop."""
    lines = [line.strip() for line in (run.stderr + run.stdout).splitlines() if line.strip()]
    errors = [line.removeprefix("E: ") for line in lines if line.startswith("E: ")]
    said = (errors or lines[:1] or [f"exit status {run.returncode}"])[-1]
    return said.rstrip(".")
