"""Limits of a request, and refusals."""

import math
from dataclasses import dataclass

from common.errors import UserError


@dataclass(frozen=True)
class Limits:
    """Limits of one video. A larger one is refused, with the limit in the answer.

    max_bytes       of the file, counted while it comes in
    max_seconds     of the video, by what its header says and by counting frames
    max_pixels      of one picture
    timeout         seconds from the beginning of its decoding to its answer; waiting for a decoder does not count
    upload_timeout  seconds for the upload as a whole
    memory          bytes of the process that decodes it (Linux)
    max_named       how many probabilities the windows of one answer may name
    """

    max_bytes: int = 100_000_000
    max_seconds: float = 300.0
    max_pixels: int = 4096 * 2304
    timeout: float = 120.0
    upload_timeout: float = 120.0
    memory: int = 2 << 30
    max_named: int = 200_000

    def max_frames(self, fps: float | None) -> int:
        """A header may state any rate: frames above 120 a second count as if they were 120 a second."""
        return math.ceil(self.max_seconds * min(fps or 30.0, 120.0))


class Refused(UserError):
    """A request that gets no answer. The message goes to the client.

    retry_after: seconds after which the same may succeed.
    """

    def __init__(self, status: int, message: str, retry_after: int | None = None):
        super().__init__(message)
        self.status, self.retry_after = status, retry_after


class ClientDisconnected(Exception):
    """The client went away before its answer was there."""
