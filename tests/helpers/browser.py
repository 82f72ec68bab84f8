"""A browser without a window, by the W3C's WebDriver protocol: enough of it to use a page as a person does."""

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # the protocol's own key
CHROMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def missing() -> str:
    """What of a browser is not installed here; "" where all is."""
    if not any(map(shutil.which, CHROMES)):
        return "no Chromium or Chrome is installed"
    return "" if shutil.which("chromedriver") else "no chromedriver is installed"


class Browser:
    """An open session; see https://www.w3.org/TR/webdriver2/ for the commands."""

    def __init__(self, driver: httpx.Client, session: str):
        self.driver, self.session = driver, session

    def ask(self, method: str, command: str, **content) -> object:
        path = f"/session/{self.session}{command}"
        answer = self.driver.request(method, path, json=content if method == "POST" else None).json()["value"]
        assert not (isinstance(answer, dict) and "error" in answer), answer["message"]
        return answer

    def open(self, address: str) -> None:
        self.ask("POST", "/url", url=address)

    def run(self, script: str, *args) -> object:
        """The value of a function's body in the page."""
        return self.ask("POST", "/execute/sync", script=script, args=args)

    def find(self, selector: str) -> str:
        return self.ask("POST", "/element", using="css selector", value=selector)[ELEMENT]

    def type(self, selector: str, text: str) -> None:
        """Keys for an element; the path of a file for a field of files."""
        self.ask("POST", f"/element/{self.find(selector)}/value", text=text)

    def click(self, selector: str) -> None:
        self.ask("POST", f"/element/{self.find(selector)}/click")

    def screenshot(self) -> str:
        """PNG, base64"""
        return self.ask("GET", "/screenshot")

    def messages(self) -> list[str]:
        """What the browser complained about: scripts that failed, content that the page's policy forbids."""
        return [entry["message"] for entry in self.ask("POST", "/se/log", type="browser") if entry["level"] == "SEVERE"]


@contextmanager
def browser(folder: Path, width: int = 1000, height: int = 900, dark: bool = False) -> Iterator[Browser]:
    chrome = next(filter(None, map(shutil.which, CHROMES)))
    driver = subprocess.Popen(
        [shutil.which("chromedriver"), "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        port = next(line for line in driver.stdout if "successfully on port" in line).split()[-1].rstrip(".")
        arguments = ["--headless=new", "--no-sandbox", "--disable-dev-shm-usage", f"--user-data-dir={folder}"]
        arguments += [f"--window-size={width},{height}", "--autoplay-policy=no-user-gesture-required", "--mute-audio"]
        arguments += ["--force-dark-mode"] if dark else []
        options = {"binary": chrome, "args": arguments}
        if width < 500:  # no window is that narrow: a phone is asked for by name
            options["mobileEmulation"] = {"deviceMetrics": {"width": width, "height": height, "pixelRatio": 2.0}}
        wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            session = client.post("/session", json={"capabilities": {"alwaysMatch": wanted}}).json()["value"]
            assert "sessionId" in session, session
            browser = Browser(client, session["sessionId"])
            try:
                yield browser
            finally:
                browser.ask("DELETE", "")
    finally:
        driver.terminate()
        driver.wait()
