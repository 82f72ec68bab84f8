"""How a run is asked to end."""

import os
import signal

from common.errors import Stopped
from common.torchrun import world_size
from engine.hardware.distributed import all_reduce_max


class StopRequest:
    """Ctrl-C and SIGTERM ask the run to end after the running step; a second Ctrl-C ends it at once.

    Several processes have to end after the same step: they act on `agreed`, which agree() makes equal on all.
    """

    def __init__(self) -> None:
        self.signum = self.agreed = 0

    def __call__(self) -> bool:
        return bool(self.signum)

    def agree(self, wish: bool = False) -> bool:
        """Tells the other processes, and hears of their signals. Returns whether one of them has the wish."""
        self.agreed, wish = all_reduce_max(self.signum, int(wish))
        return bool(wish)

    def __enter__(self) -> "StopRequest":
        self.before = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _note(self, signum: int, _: object) -> None:
        if world_size() > 1:  # a launcher may pass on one Ctrl-C twice, and ends what takes too long by itself
            self.signum = self.signum or signum
            return
        if self.signum:
            raise Stopped(signum, f"Stopped at once by {signal.Signals(signum).name}.")
        self.signum = signum
        os.write(2, b"\nEnding after this step; once more ends at once.\n")  # print may be at work already
