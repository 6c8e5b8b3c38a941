# SPDX-License-Identifier: GPL-2.0-only
"""The plugin's hooks where a manifest is named; see :mod:`harness.pytest_plugin` for when."""

from __future__ import annotations

import contextlib
import fnmatch
import os.path
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from harness import kernels, pytest_plugin
from harness.errors import HarnessError
from harness.kernels import Cache
from harness.manifest import kernels_yaml
from harness.manifest.entries import Accel, KernelEntry
from harness.manifest.known_issues import KnownIssues
from harness.manifest.plan import Profile
from harness.pytest_plugin.boots import Boots, Settings
from harness.pytest_plugin.fixture import Kernel
from harness.pytest_plugin.items import KernelItem, ManifestFile, wanted_of
from harness.run import matrix
from harness.text import plural, printable
from harness.verdict.verdicts import KernelVerdict
from harness.vm.commandline import Unsafe

#: The key of a worker's summary in what pytest-xdist sends to its controller.
SUMMARY = "mptcp_harness_summary"
FIXTURE = "kernel"
#: Lines of a console in the report of a user's own test that fails.
CONSOLE_LINES = 40


def configured(config: pytest.Config, given: Sequence[Path], named: Sequence[Path]) -> Active:
    """The hooks for the manifests ``given`` by option and ``named`` as paths.

    Raises pytest.UsageError for a manifest that is wrong.
    """
    sources = config.ArgsSource
    paths = [config.invocation_params.dir / path for path in given]
    if paths and config.args_source is not sources.ARGS:
        config.args[:] = [str(path) for path in dict.fromkeys(paths)]
        config.args_source = sources.ARGS
    settings = _settings(config)
    only = config.getoption("--kernels-only")
    try:
        found = {
            path: _entries(path, only, Cache(settings.cache))
            for path in dict.fromkeys(map(_plain, (*paths, *named)))
        }
    except HarnessError as error:
        raise pytest.UsageError(*str(error).splitlines()) from None
    if not config.pluginmanager.has_plugin("xdist"):
        config.addinivalue_line("markers", "xdist_group: tests of one worker, for pytest-xdist")
    return Active(config, found, settings)


def _plain(path: Path) -> Path:
    """``path`` as pytest writes it: without ``..``, and with its symbolic links."""
    return Path(os.path.normpath(path))


def _settings(config: pytest.Config) -> Settings:
    option = config.getoption
    worker: dict[str, Any] = getattr(config, "workerinput", {})
    return Settings(
        profile=Profile(option("--kernels-profile")),
        accel=Accel(option("--kernels-accel")) if option("--kernels-accel") else None,
        jobs=option("--kernels-jobs"),
        seed=option("--kernels-seed"),
        confirm=option("--kernels-confirm"),
        reuse=option("--kernels-reuse"),
        resume=option("--kernels-resume"),
        cache=option("--kernels-cache"),
        workers=int(worker.get("workercount", 0)),
    )


def _entries(manifest: Path, only: str | None, cache: Cache) -> list[KernelEntry]:
    """The kernels of ``manifest`` that ``only`` names, or all but series."""
    entries = kernels_yaml.load(manifest).entries
    globs = [part.strip() for part in only.split(",")] if only else []
    found = matrix.select(
        entries, ",".join(globs) or None, lambda entry: kernels.expand(entry, cache)
    )
    names = [entry.name for entry in (*entries, *found)]
    idle = [glob for glob in globs if not fnmatch.filter(names, glob)]
    if idle or not found:
        why = f"no kernel matches {idle[0]!r}" if idle else "all entries are series"
        has = ", ".join(entry.name for entry in entries)
        raise kernels_yaml.ManifestError((f"{manifest}: {why} (--kernels-only); it has {has}",))
    KnownIssues.read(found)
    return found


class Active:
    """The hooks. ``manifests`` are the kernels to test, by the path of their manifest."""

    def __init__(
        self,
        config: pytest.Config,
        manifests: dict[Path, list[KernelEntry]],
        settings: Settings,
    ) -> None:
        self._config = config
        self._manifests = manifests
        self._settings = settings
        self._terminal = _Terminal(config)
        self._boots = Boots(settings, self._terminal)
        self._of_workers: list[str] = []

    def pytest_report_header(self) -> list[str]:
        return [
            f"kernels: {printable(str(path))}: {plural(len(entries), 'kernel')}, profile "
            f"{self._settings.profile}"
            for path, entries in self._manifests.items()
        ]

    def pytest_collect_file(
        self, file_path: Path, parent: pytest.Collector
    ) -> pytest.Collector | None:
        if file_path not in self._manifests or not parent.session.isinitpath(file_path):
            return None
        entries, profile = self._manifests[file_path], self._settings.profile
        node: pytest.Collector = ManifestFile.from_parent(
            parent, path=file_path, entries=entries, profile=profile, boots=self._boots
        )
        return node

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """A test with our fixture `kernel` is one for each kernel."""
        if not _is_ours(metafunc._arg2fixturedefs.get(FIXTURE, ())):
            return
        entries = [entry for entries in self._manifests.values() for entry in entries]
        names = [entry.name for entry in entries]
        metafunc.parametrize(FIXTURE, entries, ids=names, indirect=True)

    def kernel_of(self, request: pytest.FixtureRequest) -> Iterator[Kernel]:
        """The fixture. A kernel that cannot be booted is an error of the set-up."""
        of_run = request.scope == "session"
        near = self._config.rootpath if of_run else request.path.parent
        accel, say = self._settings.accel, self._terminal.line
        made = Kernel(request.param, self._boots.cache, accel, near, say)
        try:
            made.boot()
        except (HarnessError, Unsafe, OSError) as error:
            made.close()
            pytest.fail(printable(str(error)), pytrace=False)
        self._terminal.end()
        try:
            yield made
        finally:
            made.close()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_teardown(self, item: pytest.Item) -> Generator[None, None, None]:
        kernel = _kernel_of(item)
        report = kernel.end_test() if kernel is not None else ""
        yield
        if report:
            pytest.fail(report, pytrace=False)

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._terminal.nodeid = nodeid

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self._boots.select(wanted_of(session.items))

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        if isinstance(item, KernelItem) and item.outcome is not None and report.failed:
            report.sections += item.outcome.sections
        kernel = _kernel_of(item)
        if kernel is not None and report.failed:
            lines = kernel.console.splitlines()[-CONSOLE_LINES:]
            text = "\n".join(printable(line.expandtabs()) for line in lines)
            report.sections.append((f"console of {kernel.name}", text))
        return report

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        self._boots.stop()
        output = getattr(self._config, "workeroutput", None)
        if output is not None:
            output[SUMMARY] = self._summary()

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any, error: object) -> None:
        self._of_workers += getattr(node, "workeroutput", {}).get(SUMMARY, [])

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_make_scheduler(self, config: pytest.Config, log: Any) -> Any:
        """One kernel for each worker."""
        from harness.pytest_plugin.scheduling import SCHEDULERS

        scheduler = SCHEDULERS.get(config.getoption("dist"))
        return scheduler and scheduler(config, log)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        lines = [*self._of_workers, *self._summary()]
        if lines and terminalreporter.verbosity >= 0:
            terminalreporter.write_sep("=", "kernels")
            for line in lines:
                terminalreporter.write_line(line)

    def _summary(self) -> list[str]:
        """A line for each kernel, and lines for each run."""
        lines = []
        for told in self._boots.told:
            for name, result in told.results.items():
                reason = "" if result.verdict is KernelVerdict.PASS else result.reason
                lines.append(": ".join(filter(None, (name, result.verdict, printable(reason)))))
            if told.run is not None:
                lines += [f"note: {printable(note)}" for note in told.run.notes]
                lines.append(f"seed {told.run.seed}, results in {printable(told.run.directory)}")
        return lines


def _is_ours(definitions: Sequence[Any]) -> bool:
    """Whether the last of the fixtures of a name is ours, or overrides it and uses it."""
    for definition in reversed(definitions):
        if definition.func.__module__ == pytest_plugin.__name__:
            return True
        if FIXTURE not in definition.argnames:
            return False
    return False


def _kernel_of(item: pytest.Item) -> Kernel | None:
    """The fixture `kernel` of a test, once it is set up."""
    found = (getattr(item, "funcargs", None) or {}).get(FIXTURE)
    return found if isinstance(found, Kernel) else None


class _Terminal:
    """Progress on pytest's terminal; nothing with -q, and in workers, which have none."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._shown = ""  # what the next line replaces
        self.nodeid = ""  # of the test that is running

    def line(self, text: str) -> None:
        with self._reporter() as reporter:
            if reporter is not None:
                self._erase(reporter)
                reporter.ensure_newline()
                reporter.write_line(text)

    def now(self, text: str) -> None:
        if text == self._shown:
            return
        with self._reporter() as reporter:
            if reporter is not None and reporter.isatty:
                self._erase(reporter)
                reporter.ensure_newline()
                reporter.write(text[: reporter._tw.fullwidth - 1], flush=True)
                self._shown = text

    def end(self) -> None:
        """Begin the line of the running test again, which progress has interrupted."""
        self.now("")
        with self._reporter() as reporter:
            interrupted = reporter is not None and reporter.currentfspath is None
            if reporter is not None and interrupted and reporter.showfspath and self.nodeid:
                reporter.write_fspath_result(self.nodeid, "")

    def _erase(self, reporter: pytest.TerminalReporter) -> None:
        if self._shown:
            reporter.rewrite(" " * len(self._shown))
            reporter.write("\r")
            self._shown = ""

    @contextlib.contextmanager
    def _reporter(self) -> Iterator[pytest.TerminalReporter | None]:
        """The reporter if there is one that is not quiet, with its output not captured."""
        manager = self._config.pluginmanager
        reporter = manager.get_plugin("terminalreporter")
        capture = manager.get_plugin("capturemanager")
        with contextlib.ExitStack() as open:
            if capture is not None:
                open.enter_context(capture.global_and_fixture_disabled())
            yield reporter if reporter is not None and reporter.verbosity >= 0 else None
