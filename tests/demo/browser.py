"""The page in a real browser, served by the command itself."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

SHOTS = Path("out/demo")
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
PATIENCE = 40  # seconds


@contextmanager
def served(folder: Path, *words: str) -> Iterator[str]:
    """The command on a free port; its address."""
    log = folder / "log"
    command = [sys.executable, "-m", "sparevlm", "demo", "--port", "0", *words]
    with (
        log.open("w") as stream,
        subprocess.Popen(command, stdout=stream, stderr=subprocess.STDOUT) as process,
    ):
        try:
            yield until(lambda: _address(process, log), 120)
        finally:
            process.terminate()


def _address(process: Any, log: Path) -> str | None:
    said = log.read_text()
    if process.poll() is not None:
        raise RuntimeError(f"the page ended: {said}")
    found = [word for word in said.split() if word.startswith("http://")]
    return found[0] if found else None


def until(found: Callable[[], Any], seconds: float = PATIENCE) -> Any:
    """What a function gives once it gives anything true."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            value = found()
        except StaleElementReferenceException:
            value = None
        if value:
            return value
        time.sleep(0.05)
    raise TimeoutError(f"nothing came within {seconds} seconds")


@contextmanager
def browser(width: int = 1280, height: int = 1400, *, dark: bool = False) -> Iterator[Visitor]:
    """A browser window with a profile of its own."""
    where = next(filter(None, map(shutil.which, BROWSERS)), None)
    if where is None:
        raise RuntimeError(f"the page is tested in a browser: install one of {', '.join(BROWSERS)}")
    options = webdriver.ChromeOptions()
    options.binary_location = where
    arguments = ["--headless=new", "--disable-dev-shm-usage", f"--window-size={width},{height}"]
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        arguments.append("--no-sandbox")  # Chromium refuses root otherwise
    for argument in arguments:
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
    try:
        driver.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600},
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
        yield Visitor(driver)
    finally:
        driver.quit()


class Visitor:
    """Somebody in front of the page."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def open(self, url: str) -> None:
        """Go there, and wait for the answers."""
        self.driver.get(url)
        self.answers()

    def all(self, selector: str) -> list[Any]:
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def one(self, selector: str) -> Any:
        return until(lambda: self.all(selector))[0]

    def texts(self, selector: str) -> list[str]:
        return [element.text for element in self.all(selector)]

    def answers(self) -> list[str]:
        """With all tokens, with the first method and with the second, once all are there."""
        return until(lambda: len(self.all(".sv-answer")) == 3 and self.texts(".sv-answer"))

    def refusal(self) -> str:
        return until(lambda: self.texts("[role=alert].sv-refused"))[0]

    def kept(self, side: str) -> list[int]:
        """Tokens that the drawing of a side shows as kept."""
        return self.driver.execute_script(
            "return [...document.querySelectorAll('.sv-' + arguments[0] + ' .sv-cells rect')]"
            ".flatMap((cell, token) => cell.style.display === 'none' ? [] : [token])",
            side,
        )

    def dim(self) -> list[str]:
        """What is shown as out of date: a class, and the side that it belongs to."""
        return self.driver.execute_script(
            "return [...document.querySelectorAll('.sv-said, .sv-panel, .sv-curves')]"
            ".filter((e) => e.getAttribute('aria-busy') === 'true'"
            " && Number(getComputedStyle(e).opacity) < 0.5)"
            ".map((e) => e.closest('[id^=sv-]').id)"
        )

    def box(self, selector: str) -> dict[str, float]:
        """Where something is: left, top, right, bottom, in pixels."""
        script = "return document.querySelector(arguments[0]).getBoundingClientRect().toJSON()"
        return self.driver.execute_script(script, selector)

    def broken(self) -> list[str]:
        """Pictures that the browser draws its mark of a broken one for."""
        return self.driver.execute_script(
            "return [...document.images].filter((i) => i.src && i.complete && !i.naturalWidth"
            " && i.getClientRects().length).map((i) => i.src)"
        )

    def working(self) -> list[str]:
        """Where signs of work are."""
        return self.driver.execute_script(
            "return [...document.querySelectorAll('[data-testid=status-tracker]:not(.hide)')]"
            ".map((e) => e.parentElement.id)"
        )

    def drag(self, keep: int) -> None:
        """Put the slider somewhere, as dragging does."""
        self.driver.execute_script(
            "const slider = document.querySelector('#sv-keep input[type=range]');"
            "slider.value = arguments[0];"
            "slider.dispatchEvent(new Event('input', {bubbles: true}));",
            keep,
        )

    def ask(self, question: str) -> None:
        box = self.one("#sv-question textarea")
        box.send_keys(Keys.CONTROL + "a")
        box.send_keys(question + Keys.ENTER)

    def upload(self, path: Path) -> None:
        for close in self.all("#sv-picture button[aria-label='Remove Image']"):
            close.click()
        # It is hidden behind a button.
        until(lambda: self.all("#sv-picture input[type=file]"))[0].send_keys(str(path.resolve()))

    def shot(self, name: str) -> None:
        """Keep what is seen, for people to look at."""
        SHOTS.mkdir(parents=True, exist_ok=True)
        self.driver.save_screenshot(str(SHOTS / f"{name}.png"))

    def requested(self) -> list[str]:
        """Addresses that the browser asked for since this was last called."""
        found = []
        for entry in self.driver.get_log("performance"):
            message = json.loads(entry["message"])["message"]
            if message["method"] == "Network.requestWillBeSent":
                found.append(message["params"]["request"]["url"])
        return found

    def complaints(self) -> list[str]:
        return [e["message"] for e in self.driver.get_log("browser") if e["level"] == "SEVERE"]
