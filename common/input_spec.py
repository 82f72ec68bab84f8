"""InputSpec: the clips that a network expects."""

from dataclasses import asdict, dataclass

from common.errors import UsageError

KINETICS_MEAN = (0.43216, 0.394666, 0.37645)
KINETICS_STD = (0.22803, 0.22145, 0.216989)
INPUTS = ("rgb", "diff", "rgb+diff")


@dataclass(frozen=True)
class InputSpec:
    """The input a network expects: clip length, sampling, frame size and normalisation. Stored in the checkpoint.

    clip_len      frames in a clip, T
    frame_stride  distance of a clip's frames in frames of the source (after resampling, where fps is set)
    fps           frame rate to which the source is resampled; None: not resampled
    resize        (width, height) of the frames stored on disk, before cropping
    crop_size     height and width of the square that the network gets
    mean, std     per channel, RGB, for values in [0, 1]
    input         "rgb": colours; "diff": difference of each frame to the next, divided by std; "rgb+diff": both as six
                  channels. Differences need clip_len + 1 frames.
    keep_aspect   frames keep their aspect: their shorter side is the smaller number of resize

        clip_len=4, frame_stride=3   f..f..f..f      span 10
        the same with differences    f..f..f..f..f   span 13
    """

    clip_len: int = 16
    frame_stride: int = 1
    fps: float | None = None
    resize: tuple[int, int] = (171, 128)
    crop_size: int = 112
    mean: tuple[float, float, float] = KINETICS_MEAN
    std: tuple[float, float, float] = KINETICS_STD
    input: str = "rgb"
    keep_aspect: bool = False

    def __post_init__(self) -> None:
        if self.input not in INPUTS:
            raise UsageError(f"input must be {', '.join(INPUTS)}, but is '{self.input}'.")
        for name in ("clip_len", "frame_stride", "crop_size"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} must be at least 1, but is {getattr(self, name)}.")
        if self.crop_size > min(self.resize):
            raise UsageError(
                f"crop_size {self.crop_size} does not fit into frames of {self.resize[0]}x{self.resize[1]} (WxH). "
                f"Choose a --crop-size of at most {min(self.resize)}."
            )

    @property
    def channels(self) -> int:
        """Channels of the network's input (B, channels, clip_len, crop_size, crop_size)."""
        return 6 if self.input == "rgb+diff" else 3

    @property
    def read_len(self) -> int:
        """Frames read for a clip: clip_len, and one more for differences."""
        return self.clip_len + (self.input != "rgb")

    @property
    def span(self) -> int:
        """Source frames from a clip's first to its last, inclusive."""
        return (self.read_len - 1) * self.frame_stride + 1

    @property
    def cut_size(self) -> tuple[int, int]:
        """(width, height) of the crop that data sets cut from each frame."""
        return self.crop_size, self.crop_size

    def to_dict(self) -> dict:
        """The fields as plain lists and numbers, for checkpoints and config.json."""
        values = asdict(self)
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    @classmethod
    def from_dict(cls, values: dict) -> "InputSpec":
        return cls(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})


@dataclass(frozen=True)
class WholeFrameSpec(InputSpec):
    """The input of an exported file, which resizes and crops itself: whole stored frames. Frames that keep their aspect
    differ in size, so of these it is the centre square."""

    @property
    def cut_size(self) -> tuple[int, int]:
        return (min(self.resize), min(self.resize)) if self.keep_aspect else self.resize
