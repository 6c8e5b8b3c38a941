# SPDX-License-Identifier: GPL-2.0-only
"""A real browser, Debian's chromium, for `nox -s browser`.

Without selenium, which only that session installs, these tests are not collected. With it,
everything they need must be there: a browser test is never skipped.
"""

from __future__ import annotations

import importlib.resources
import importlib.util
import lzma
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from harness.records.from_json import run_from_text
from harness.verdict.results import RunResult

if TYPE_CHECKING:
    from selenium.webdriver.chrome.webdriver import WebDriver

if importlib.util.find_spec("selenium") is None:
    collect_ignore_glob = ["test_*.py"]

DATA = Path(__file__).parents[1] / "data" / "runs"
#: Before a page's own script: collects what its policy forbade, and what went wrong in it.
WATCH = """
window.trouble = [];
addEventListener("securitypolicyviolation", (e) => trouble.push(e.violatedDirective));
addEventListener("error", (e) => trouble.push(e.message));
"""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--screenshots", type=Path, metavar="DIR", help="keep screenshots in DIR")


class Browser:
    """A page in a browser of a given size and theme."""

    def __init__(self, driver: WebDriver) -> None:
        self.driver = driver
        self.look()

    def look(
        self, width: int = 1280, height: int = 800, theme: str = "light", media: str = "screen"
    ) -> None:
        command = self.driver.execute_cdp_cmd
        features = {"prefers-color-scheme": theme, "prefers-reduced-motion": "reduce"}
        named = [{"name": name, "value": value} for name, value in features.items()]
        command("Emulation.setEmulatedMedia", {"media": media, "features": named})
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        command("Emulation.setDeviceMetricsOverride", size)

    def open(self, path: Path, fragment: str = "") -> None:
        self.driver.get("about:blank")  # a fragment alone would load nothing
        self.driver.get(f"{path.as_uri()}{fragment}")

    def run(self, script: str, *arguments: Any) -> Any:
        return self.driver.execute_script(script, *arguments)

    def text(self, selector: str) -> str:
        """The visible text of the first such element."""
        found = self.run("return document.querySelector(arguments[0])?.innerText", selector)
        return str(found)

    def rows(self) -> list[str]:
        """The names of the kernels with a result that the matrix shows, from the top."""
        script = """return [...document.querySelectorAll("#matrix tbody tr")]
            .filter((row) => row.offsetParent && row.dataset.k)
            .map((row) => row.cells[0].querySelector("a").innerText)"""
        return list(self.run(script))

    def choose(self, control: str, value: str) -> None:
        """Give the control with this id a value, as a user does."""
        self.run(
            "const it = document.getElementById(arguments[0]); it.value = arguments[1];"
            "it.dispatchEvent(new Event('input'))",
            control,
            value,
        )

    def click(self, selector: str) -> None:
        from selenium.webdriver.common.by import By

        self.driver.find_element(By.CSS_SELECTOR, selector).click()

    def press(self, *keys: str) -> None:
        from selenium.webdriver.common.action_chains import ActionChains

        for key in keys:
            ActionChains(self.driver).send_keys(key).perform()

    def trouble(self) -> list[str]:
        """What the policy forbade, what went wrong in a script, and what the console says."""
        logged = [entry["message"] for entry in self.driver.get_log("browser")]
        return [*self.run("return window.trouble"), *logged]

    def axe(self, *rules: str) -> list[str]:
        """What axe-core finds wrong: WCAG 2.1 A and AA, and its best practices; or only of these
        ``rules``."""
        source = importlib.resources.files("axe_playwright_python") / "axe.min.js"
        self.run(source.read_text(encoding="utf-8"))
        found = self.driver.execute_async_script(
            "const done = arguments[arguments.length - 1];"
            "const only = arguments[0].length ? { runOnly: arguments[0] } : {};"
            "axe.run(only).then((found) => done(found.violations))",
            rules,
        )
        return [
            f"{rule['id']}: {node['html'][:200]}: {node['failureSummary']}"
            for rule in found
            for node in rule["nodes"][:3]
        ]


@pytest.fixture(scope="session")
def driver() -> Iterator[WebDriver]:
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    for argument in (
        *("--headless=new", "--disable-gpu", "--hide-scrollbars", "--disable-dev-shm-usage"),
        "--no-sandbox",  # which root has not; the pages are our own
    ):
        options.add_argument(argument)
    options.binary_location = required("chromium")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = webdriver.ChromeService(required("chromedriver"))
    driver = webdriver.Chrome(options=options, service=service)
    driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": WATCH})
    driver.set_script_timeout(300)
    yield driver
    driver.quit()


def required(program: str) -> str:
    path = shutil.which(program)
    assert path is not None, f"{program} is missing: apt-get install chromium chromium-driver"
    return path


@pytest.fixture
def browser(driver: WebDriver) -> Browser:
    return Browser(driver)


@pytest.fixture
def screenshot(browser: Browser, request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Keeps a picture of what the browser shows, if the user wants it."""
    place = request.config.getoption("--screenshots")

    def keep(name: str) -> None:
        if place is not None:
            place.mkdir(parents=True, exist_ok=True)
            browser.driver.save_screenshot(str(place / f"{name}.png"))

    return keep


def recorded(name: str) -> RunResult:
    """A run that real kernels gave."""
    return run_from_text(lzma.decompress((DATA / name).read_bytes()).decode())
