"""Requests to end a run, by Ctrl-C, SIGTERM or SIGHUP."""

import os
import signal
from contextlib import suppress
from typing import NamedTuple

from common.cli import ending_signals
from common.errors import Stopped
from common.torchrun import world_size
from engine.hardware.distributed import all_reduce_max


class Vote(NamedTuple):
    """The decision that all ranks share. stop: the signal that ends the run, 0 for none; save: write last.pth now."""

    stop: int
    save: bool


class StopRequest:
    """Ctrl-C, SIGTERM and SIGHUP ask the run to end after the running step; a second Ctrl-C ends it at once.

    Ranks have to end after the same step: each asks vote(), which gives all of them the same answer.
    """

    def __init__(self) -> None:
        self.signum = 0

    def __call__(self) -> bool:
        return bool(self.signum)

    def vote(self, save: bool = False) -> Vote:
        """Exchanges signals and the wish to save with the other ranks; one rank's is enough."""
        stop, save = all_reduce_max(self.signum, int(save))
        return Vote(stop, bool(save) and not stop)

    def __enter__(self) -> "StopRequest":
        self.before = {number: signal.signal(number, self._note) for number in (signal.SIGINT, *ending_signals())}
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
        with suppress(OSError):  # the terminal may be gone
            os.write(2, b"\nEnding after this step; once more ends at once.\n")  # print may be at work already
