"""Some frames of a video as JPEG, for who cannot play it: browsers do not play the AVI files of UCF101 and HMDB51."""

from collections.abc import Iterable, Iterator

import av
import cv2

from dataloaders.video import to_array

PIXELS = 320 * 240  # of a picture, at most
QUALITY = 75


class Pictures:
    """Frames pass through; evenly spaced ones, `most` at most and at least half as many where the video has them, are
    kept: .kept is {frame: JPEG}. How long the video is need not be known.

        most=4      0123    01234567        step 2 from frame 4 on, and 4 from frame 8 on
                    pppp    p.p.p.p.
    """

    def __init__(self, most: int):
        self.most, self.step = most, 1
        self.kept: dict[int, bytes] = {}

    def of(self, frames: Iterable[av.VideoFrame]) -> Iterator[av.VideoFrame]:
        for index, frame in enumerate(frames):
            if self.most and index % self.step == 0:
                if len(self.kept) == self.most:
                    self.step *= 2
                    self.kept = {place: jpeg for place, jpeg in self.kept.items() if place % self.step == 0}
                if index % self.step == 0:
                    self.kept[index] = small_jpeg(frame)
            yield frame


def small_jpeg(frame: av.VideoFrame) -> bytes:
    """A small JPEG of a frame, turned upright as a player shows it."""
    pixels = to_array(frame, "bgr24")
    height, width = pixels.shape[:2]
    scale = min(1.0, (PIXELS / (width * height)) ** 0.5)
    size = max(round(width * scale), 1), max(round(height * scale), 1)
    small = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    return cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1].tobytes()
