"""How a run is asked to end."""

import os
import signal

from engine.errors import Stopped


class StopRequest:
    """Ctrl-C and SIGTERM ask the run to end after the running step; a second Ctrl-C ends it at once."""

    def __init__(self) -> None:
        self.signum = 0

    def __call__(self) -> bool:
        return bool(self.signum)

    def __enter__(self) -> "StopRequest":
        self.before = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _note(self, signum: int, _: object) -> None:
        if self.signum:
            raise Stopped(signum, f"Stopped at once by {signal.Signals(signum).name}.")
        self.signum = signum
        os.write(2, b"\nEnding after this step; once more ends at once.\n")  # print may be at work already
