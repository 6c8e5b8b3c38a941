# SPDX-License-Identifier: GPL-2.0-only
from __future__ import annotations

import pytest

from harness import cli
from harness.kernels import kconfig
from harness.kernels.kconfig import OPTIONS, fragment, missing, parse

ALL = {option.name: "y" for option in OPTIONS}


def test_the_fragment_sets_all_that_is_needed() -> None:
    assert missing(parse(fragment())) == ((), ())


def test_each_line_of_the_fragment_says_why() -> None:
    lines = fragment().splitlines()
    options, reasons = lines[1::2], lines[0::2]
    assert all("CONFIG_" in line for line in options)
    assert all(line.startswith("# ") and "CONFIG_" not in line for line in reasons)


@pytest.mark.parametrize(
    ("given", "option"), [({"modules": True}, "MODULES"), ({"debug_info": True}, "DEBUG_KERNEL")]
)
def test_what_slows_a_build_down_is_left_out_unless_it_is_wanted(
    given: dict[str, bool], option: str
) -> None:
    line = f"# CONFIG_{option} is not set"
    assert line in fragment()
    assert line not in fragment(**given)


def test_the_command_prints_the_fragment_behind_how_to_use_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli.main(["config"]) == 0
    said = capsys.readouterr().out
    assert said.endswith(fragment())
    assert f"\n#   {kconfig.REMEDY}\n" in said


def test_no_boot_without_the_event_channel() -> None:
    for_boot, for_tests = missing(ALL | {"CONFIG_VIRTIO_CONSOLE": "n"})
    assert [option.name for option in for_boot] == ["CONFIG_VIRTIO_CONSOLE"]
    assert for_tests == ()


def test_without_mptcp_a_kernel_boots() -> None:
    values = {name: value for name, value in ALL.items() if "MPTCP" not in name}
    for_boot, for_tests = missing(values)
    assert for_boot == ()
    assert [option.name for option in for_tests] == ["CONFIG_MPTCP", "CONFIG_MPTCP_IPV6"]


def test_a_module_that_was_found_is_as_good_as_built_in() -> None:
    values = ALL | {"CONFIG_VIRTIO_CONSOLE": "m"}
    assert missing(values, ["virtio_console"]) == ((), ())
    assert missing(values)[0] != ()


def test_what_nobody_loads_has_to_be_built_in() -> None:
    assert missing(ALL | {"CONFIG_BINFMT_SCRIPT": "m"}, ["binfmt_script"])[0] != ()


@pytest.mark.parametrize("option", ["NET_9P", "9P_FS", "VIRTIO_FS", "FUSE_FS"])
def test_no_shared_file_system_is_asked_for(option: str) -> None:
    assert option not in fragment()
