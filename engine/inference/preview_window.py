"""A window on the screen, through OpenCV."""

import os
import subprocess
import sys
import time

import cv2
import numpy as np

from common.errors import UserError

KEYS = (ord("q"), 27)  # q and Esc close the window


def check_screen() -> None:
    """Raises UserError where no window can be opened."""
    if sys.platform.startswith("linux") and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        raise UserError("--show needs a screen, and there is none (DISPLAY is not set). Use --output FILE instead.")
    if "NONE" in _gui():
        raise UserError("--show needs an OpenCV that opens windows. Do: pip install opencv-python")
    try:  # in a process of its own: where the screen does not answer, Qt ends the process or waits for ever
        subprocess.run(
            [sys.executable, "-c", "import cv2; cv2.namedWindow('check')"], check=True, capture_output=True, timeout=30
        )
    except subprocess.SubprocessError as error:
        screen = os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY") or "it"
        raise UserError(f"--show needs a screen, and {screen} opens no window. Use --output FILE instead.") from error


def _gui() -> str:
    lines = [line for line in cv2.getBuildInformation().splitlines() if line.strip().startswith("GUI:")]
    return lines[0] if lines else "NONE"


class Screen:
    """A window that shows pictures, (H, W, 3) uint8 BGR, each at its time; closed() tells when it is closed."""

    def __init__(self, title: str, paced: bool):
        self.title, self.paced = title, paced
        self.start: float | None = None
        self.is_closed = False
        cv2.namedWindow(title, cv2.WINDOW_AUTOSIZE)

    def write(self, picture: np.ndarray, seconds: float | None) -> None:
        now = time.monotonic()
        self.start = now if self.start is None else self.start
        cv2.imshow(self.title, picture)
        left = self.start + (seconds or 0.0) - now if self.paced else 0.0
        key = cv2.waitKey(max(round(1000 * left), 1))
        self.is_closed = key & 0xFF in KEYS or cv2.getWindowProperty(self.title, cv2.WND_PROP_VISIBLE) < 1

    def __enter__(self) -> "Screen":
        return self

    def __exit__(self, *_: object) -> None:
        if cv2.getWindowProperty(self.title, cv2.WND_PROP_VISIBLE) >= 1:
            cv2.destroyWindow(self.title)
