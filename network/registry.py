"""Models register here by name, each with the input it wants and the settings under which it learns."""

import inspect
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

import torch.nn as nn

from engine.errors import UsageError, unknown_name
from network.freezing import Freezable
from network.widening import widen_input

KINETICS_MEAN = (0.43216, 0.394666, 0.37645)
KINETICS_STD = (0.22803, 0.22145, 0.216989)

INPUTS = ("rgb", "diff", "rgb+diff")


@dataclass(frozen=True)
class InputSpec:
    """What a network wants to see. It travels with the weights; training, evaluation and inference read it here.

    clip_len      frames in a clip, T
    frame_stride  distance of a clip's frames, counted in frames of the source (after resampling, where fps is set)
    fps           frame rate to which the source is resampled; None: the source's own
    resize        (width, height) of the frames stored on disk, before cropping
    crop_size     height and width of the square that the network gets
    mean, std     per channel, RGB, for values in [0, 1]
    input         what of the frames: "rgb", their colours; "diff", the difference of each to the one after it, of which
                  only std is the scale; "rgb+diff", both as six channels. Differences take clip_len + 1 frames.

    keep_aspect   frames keep their aspect: their shorter side is the smaller number of resize, the longer one follows

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
        """Of what the network gets: (B, channels, clip_len, crop_size, crop_size)."""
        return 6 if self.input == "rgb+diff" else 3

    @property
    def read_len(self) -> int:
        """Frames that are read for a clip: one more than clip_len where the network sees differences."""
        return self.clip_len + (self.input != "rgb")

    @property
    def span(self) -> int:
        """Source frames from a clip's first to its last, both counted."""
        return (self.read_len - 1) * self.frame_stride + 1

    @property
    def cut_size(self) -> tuple[int, int]:
        """(width, height) of what is cut out of each frame before it is handed over."""
        return self.crop_size, self.crop_size

    def to_dict(self) -> dict:
        """Plain lists and numbers, as checkpoints and config.json hold it."""
        values = asdict(self)
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    @classmethod
    def from_dict(cls, values: dict) -> "InputSpec":
        return cls(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})


@dataclass(frozen=True)
class WholeFrameSpec(InputSpec):
    """The input of an exported file, which has the resize and the crop inside: frames as they are stored, whole. Where
    they keep their aspect they differ in size, and a batch cannot: then it is their middle square."""

    @property
    def cut_size(self) -> tuple[int, int]:
        return (min(self.resize), min(self.resize)) if self.keep_aspect else self.resize


@dataclass(frozen=True)
class TrainDefaults:
    """Settings under which a bare `python train.py --model X` learns.

    from_scratch: what to tell a person who trains the model without pretrained weights.
    """

    optimizer: str = "sgd"
    lr: float = 0.01
    weight_decay: float = 5e-4
    batch_size: int = 32
    epochs: int = 60
    warmup_epochs: float = 2.0
    from_scratch: str = ""


@dataclass(frozen=True)
class ModelEntry:
    name: str
    build: Callable[..., nn.Module]
    input_spec: InputSpec
    defaults: TrainDefaults


MODELS: dict[str, ModelEntry] = {}


def register_model(input_spec: InputSpec, **defaults) -> Callable:
    """Decorator: puts build(num_classes) -> nn.Module under its function name into the registry.

    `defaults` are fields of TrainDefaults.
    """

    def add(build: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
        MODELS[build.__name__] = ModelEntry(build.__name__, build, input_spec, replace(TrainDefaults(), **defaults))
        return build

    return add


def model_entry(name: str) -> ModelEntry:
    """The registered model, or a UsageError with the nearest name and the list."""
    if name not in MODELS:
        raise UsageError(unknown_name("model", name, sorted(MODELS)))
    return MODELS[name]


def list_models() -> list[str]:
    return sorted(MODELS)


def input_spec(name: str) -> InputSpec:
    return model_entry(name).input_spec


def model_options(name: str) -> set[str]:
    """What create_model takes for this model beside the number of classes, such as dropout."""
    return set(inspect.signature(model_entry(name).build).parameters) - {"num_classes"} | {"in_channels"}


def create_model(name: str, num_classes: int, **options) -> nn.Module:
    """A freshly initialised network that maps (B, 3, T, H, W) float to (B, num_classes) logits.

    `options` go to the model's own function; an option that it does not know is a UsageError. The network keeps them as
    .options, and a checkpoint holds them, so that the same network is built again. One that every network has is
    in_channels: other than 3, its first convolution is made anew for so many (see network/widening.py).
    """
    own = {option: value for option, value in options.items() if option != "in_channels"}
    for option in options:
        if option not in model_options(name):
            raise UsageError(f"Model '{name}' has no option '{option}'.")
    try:
        model = model_entry(name).build(num_classes, **own)
    except (TypeError, ValueError, AssertionError, RuntimeError) as error:
        if not own:
            raise
        given = ", ".join(f"{option}={value}" for option, value in own.items())
        raise UsageError(f"Model '{name}' cannot be built with {given}: {error}") from error
    if not isinstance(model, Freezable):
        raise UsageError(
            f"Model '{name}' must be a network.freezing.Freezable that says head_name and stem_names: see "
            "'Add a model' in the README."
        )
    if "in_channels" in options:
        widen_input(model, options["in_channels"])
    model.options = dict(options)
    return model
