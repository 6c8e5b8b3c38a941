# SPDX-License-Identifier: GPL-2.0-only
"""The fixture `kernel`, in pytest itself; its guest's agent is a process of this host."""

from __future__ import annotations

from tests.pytest_plugin.conftest import Project

KERNELS = "--kernels=kernels.yaml"
PASSING = """\
def test_mine(kernel):
    ended = kernel.run("sh", "-c", "echo said; exit 3")
    assert (ended.status, ended.output) == (3, "said\\n")
"""
LOSING = """\
def test_lost(kernel):
    kernel.run("sh", "-c", "kill -9 $PPID")  # the agent

def test_next(kernel):
    assert kernel.run("true").status == 0
"""


def test_a_test_is_one_for_each_kernel(project: Project) -> None:
    project.manifest("good-one", "good-two")
    project.pytester.makepyfile(test_own=PASSING)
    result = project.pytest(KERNELS, "test_own.py", "-v")
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(
        ["test_own.py::test_mine[[]good-one[]] PASSED*", "test_own.py::test_mine[[]good-two[]] *"]
    )
    assert project.booted == ["good-one", "good-two"]


def test_k_selects_a_kernel_of_the_fixture(project: Project) -> None:
    project.manifest("good-one", "good-two")
    project.pytester.makepyfile(test_own=PASSING)
    project.pytest(KERNELS, "test_own.py", "-k", "good-two").assert_outcomes(passed=1, deselected=1)
    assert project.booted == ["good-two"]


def test_to_collect_it_boots_nothing(project: Project) -> None:
    project.manifest("good")
    project.pytester.makepyfile(test_own=PASSING)
    result = project.pytest(KERNELS, "test_own.py", "--collect-only", "-q")
    assert "test_own.py::test_mine[good]" in result.outlines
    assert project.booted == []


def test_without_the_option_it_is_skipped(project: Project) -> None:
    project.manifest("good")
    project.pytester.makepyfile(test_own=PASSING)
    result = project.pytest("test_own.py", "-rs")
    result.assert_outcomes(skipped=1)
    assert "no kernels: give --kernels FILE" in result.stdout.str()


def test_a_manifest_as_a_path_is_enough(project: Project) -> None:
    project.manifest("good")
    project.pytester.makepyfile(test_own=PASSING)
    result = project.pytest("test_own.py", "kernels.yaml::good::kernel", "--kernels-profile=quick")
    result.assert_outcomes(passed=2)


def test_a_fixture_of_that_name_of_the_users_own_stays(project: Project) -> None:
    project.manifest("good-one", "good-two")
    project.pytester.makeconftest(
        "import pytest\n@pytest.fixture\ndef kernel():\n    return 'mine'\n"
    )
    project.pytester.makepyfile("def test_it(kernel):\n    assert kernel == 'mine'\n")
    project.pytest(KERNELS, ".").assert_outcomes(passed=1)


def test_a_fixture_of_the_users_own_may_build_on_it(project: Project) -> None:
    project.manifest("good")
    project.pytester.makeconftest(
        "import pytest\n@pytest.fixture\ndef kernel(kernel):\n"
        "    kernel.run('true', check=True)\n    return kernel\n"
    )
    project.pytester.makepyfile(test_own=PASSING)
    project.pytest(KERNELS, "test_own.py").assert_outcomes(passed=1)


def test_a_parameter_of_that_name_stays(project: Project) -> None:
    project.manifest("good")
    project.pytester.makepyfile(
        "import pytest\n@pytest.mark.parametrize('kernel', [1, 2])\n"
        "def test_it(kernel):\n    assert kernel in (1, 2)\n"
    )
    project.pytest(KERNELS, ".").assert_outcomes(passed=2)


def test_a_kernel_that_does_not_boot_is_an_error(project: Project) -> None:
    project.manifest("unbootable")
    project.pytester.makepyfile(test_own=PASSING)
    result = project.pytest(KERNELS, "test_own.py")
    result.assert_outcomes(errors=1)
    assert "the guest is lost: it does not start" in result.stdout.str()
    assert "Traceback" not in result.stdout.str()


def test_without_qemu_it_is_an_error(project: Project) -> None:
    project.manifest("good")
    (project.path / "no-qemu").touch()
    project.pytester.makepyfile(test_own=PASSING)
    result = project.pytest(KERNELS, "test_own.py")
    result.assert_outcomes(errors=1)
    assert "this host lacks qemu-system-x86_64" in result.stdout.str()


def test_a_test_that_fails_shows_the_console(project: Project) -> None:
    project.manifest("good")
    project.pytester.makepyfile("def test_it(kernel):\n    kernel.run('false', check=True)\n")
    result = project.pytest(KERNELS, ".")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*false ended with 1*", "*- console of good -*", "*1.0] fine"])
    assert "commands.py" not in result.stdout.str()  # the test's own line is what there is to see


def test_a_guest_that_is_lost_fails_its_test_alone(project: Project) -> None:
    project.manifest("good")
    project.pytester.makepyfile(test_own=LOSING)
    result = project.pytest(KERNELS, "test_own.py", "--kernels-scope=module")
    result.assert_outcomes(passed=1, failed=1)
    assert "is lost: it" in result.stdout.str()
    assert project.booted == ["good", "good"]


def test_the_scope_says_how_long_a_guest_is_used(project: Project) -> None:
    project.manifest("good")
    twice = PASSING + "def test_too(kernel):\n    kernel.run('true', check=True)\n"
    project.pytester.makepyfile(test_one=twice, test_two=PASSING)
    for scope, boots in (("function", 3), ("module", 2), ("session", 1)):
        project.pytest(KERNELS, ".", f"--kernels-scope={scope}").assert_outcomes(passed=3)
        assert len(project.booted) == boots
        (project.path / "boots").unlink()


def test_a_report_on_the_console_fails_a_test_that_does_not_allow_it(project: Project) -> None:
    project.manifest("warning")
    project.pytester.makepyfile(
        "def test_it(kernel):\n    kernel.run('true', check=True)\n"
        "def test_allowed(kernel):\n    kernel.reports_allowed = True\n"
    )
    result = project.pytest(KERNELS, ".")
    result.assert_outcomes(passed=2, errors=1)
    assert "warning reported warning: WARNING in mptcp_poll" in result.stdout.str()


def test_files_are_put_from_the_directory_of_the_test(project: Project) -> None:
    project.manifest("good")
    (project.path / "sub").mkdir()
    (project.path / "sub" / "data.txt").write_text("some data\n")
    target = project.path / "guest" / "data.txt"
    (project.path / "sub" / "test_own.py").write_text(
        "def test_it(kernel):\n"
        f"    place = kernel.put('data.txt', {str(target)!r})\n"
        "    assert kernel.run('cat', place).output == 'some data\\n'\n"
    )
    project.pytest(KERNELS, "sub").assert_outcomes(passed=1)
