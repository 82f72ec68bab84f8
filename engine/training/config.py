"""TrainConfig: command line, config.json, checkpoint content and test fixture in one dataclass."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

from common.dataclass_flags import build_parser, flag, flag_name
from common.errors import UsageError, UserError
from common.files import write_atomically
from engine.training.recipes import PLAIN, RECIPES, recipe_for
from network import INPUTS, InputSpec, model_entry, model_options
from network.weights.read import model_named_by

RESUMABLE = ("resume", "epochs", "workers", "cache", "device")


# how `python train.py --help` shows the flags
GROUPS = {
    "data": "dataset frames split val flip workers cache",
    "network and its clips": "model weights freeze dropout pool5 model_options input clip_len frame_stride crop_size",
    "optimisation": "epochs batch_size accumulate optimizer lr weight_decay schedule warmup_epochs head_lr_scale "
    "clip_grad",
    "recipe": "recipe clips_per_video stride_jitter zoom colour_jitter label_smoothing class_weights mixup cutmix ema "
    "early_stopping",
    "machine": "device amp compile deterministic",
    "run": "name seed val_clips resume save_every",
}


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides what a training run does. A field is the flag, its default and its help.

    None stands for "what the model (or the data set) brings"; resolved() puts the values in.
    """

    dataset: str | None = flag(
        None, "name in mypath.py, a folder of class folders, or a list (.csv, .txt)", metavar="NAME|FOLDER|LIST"
    )
    frames: str | None = flag(None, "folder of the extracted frames, where it is not the usual one", metavar="DIR")
    model: str | None = flag(None, "network, or several for a run each; `python -m network` lists them", several=True)
    split: str | None = flag(None, "which videos train and test", choices=("1", "2", "3", "given", "random"))
    val: str = flag("auto", "whole groups of the training list validate, or none do", choices=("auto", "none"))
    epochs: int | None = flag(None, "how often each video is seen")
    batch_size: int | None = flag(None, "clips at once, on each process")
    accumulate: int = flag(1, "batches a step: their gradients are added, in the memory of one")
    lr: float | None = flag(None, "peak learning rate (default: the model's, in proportion to a step's clips)")
    weight_decay: float | None = flag(None, "of weights; norms and biases have none")
    optimizer: str | None = flag(None, "default: what the model brings", choices=("sgd", "adam", "adamw"))
    schedule: str = flag("cosine", "cosine to zero, or step: a tenth at 50 %% and 75 %%", choices=("cosine", "step"))
    warmup_epochs: float | None = flag(None, "epochs in which the learning rate rises to --lr")
    clip_len: int | None = flag(None, "frames a clip")
    frame_stride: int | None = flag(None, "distance of a clip's frames in the source")
    crop_size: int | None = flag(None, "side of the square the network gets")
    input: str | None = flag(None, "frames, differences of neighbouring ones, or both", choices=INPUTS)
    flip: bool | None = flag(None, "mirror half of the training clips (default: as mypath.py says)")
    weights: str | None = flag(
        None, "weights to begin with: a file, a run, or a name such as kinetics400", metavar="NAME|FILE"
    )
    freeze: str = flag("none", "what keeps the weights of --weights", choices=("none", "stem", "trunk"))
    head_lr_scale: float = flag(10.0, "layers that --weights does not bring learn at so many times --lr")
    dropout: float | None = flag(None, "before the last layer")
    recipe: str = flag("plain", "settings for what is not said; docs/training.md lists them", choices=tuple(RECIPES))
    clips_per_video: int | None = flag(None, "clips of each video in an epoch", metavar="K")
    stride_jitter: float | None = flag(None, "vary the frame stride by up to this share, such as 0.3")
    zoom: float | None = flag(None, "enlarge squares of at least this share of the crop's side, such as 0.6; 1: none")
    colour_jitter: float | None = flag(None, "change brightness, contrast and saturation by up to this share")
    label_smoothing: float | None = flag(None, "share of the target that goes to all classes alike, such as 0.1")
    class_weights: str | None = flag(
        None, "balanced: clips of rare classes count more, by inverse frequency", choices=("none", "balanced")
    )
    mixup: float | None = flag(None, "blend clips, with shares from Beta(ALPHA, ALPHA), such as 0.2", metavar="ALPHA")
    cutmix: float | None = flag(None, "put boxes of clips into others, such as 1", metavar="ALPHA")
    pool5: str | None = flag(None, "of the C3Ds: ceil as in Caffe, or symmetric", choices=("ceil", "symmetric"))
    model_options: str | None = flag(
        None, "others that a model has, such as pool=last,hidden=256 of cnn_lstm", metavar="NAME=VALUE,..."
    )
    clip_grad: float | None = flag(
        None, "largest norm of a step's gradient; a larger one is scaled down", metavar="NORM"
    )
    early_stopping: int | None = flag(None, "end after so many epochs without a better validation", metavar="EPOCHS")
    ema: float | None = flag(None, "also keep a moving average of the weights, such as 0.999", metavar="DECAY")
    val_clips: int = flag(3, "clips a video in the validation after each epoch")
    workers: int | None = flag(None, "threads that read clips (default: one a processor, at most 8)")
    cache: str | None = flag(None, "ram keeps decoded frames in memory, none decoded twice", choices=("ram", "none"))
    device: str = flag("auto", "cuda, cuda:1, mps, cpu; auto takes the best there is")
    amp: str = flag("auto", "mixed precision; auto: bf16 where the GPU has it", choices=("auto", "off", "bf16", "fp16"))
    compile: bool = flag(False, "torch.compile the network")
    deterministic: bool = flag(False, "the same bits from run to run on a GPU too, slower")
    save_every: float = flag(10.0, "write last.pth in the middle of an epoch too; 0: at its end", metavar="MINUTES")
    seed: int = flag(0, "of weights, clips and order")
    resume: str | None = flag(None, "go on with this run; needs nothing else", metavar="RUN")
    name: str | None = flag(None, "name of the run's folder (default: <model>-<dataset>-000, 001, ...)")

    def __post_init__(self) -> None:
        for name, least in (
            ("epochs", 1),
            ("batch_size", 1),
            ("accumulate", 1),
            ("clip_len", 1),
            ("frame_stride", 1),
            ("crop_size", 1),
            ("val_clips", 1),
            ("workers", 0),
            ("warmup_epochs", 0),
            ("weight_decay", 0),
            ("head_lr_scale", 0),
            ("dropout", 0),
            ("clips_per_video", 1),
            ("stride_jitter", 0),
            ("colour_jitter", 0),
            ("label_smoothing", 0),
            ("mixup", 0),
            ("cutmix", 0),
            ("ema", 0),
            ("clip_grad", 0),
            ("early_stopping", 0),
            ("save_every", 0),
            ("seed", 0),
        ):
            value = getattr(self, name)
            if value is not None and not value >= least:
                raise UsageError(f"{flag_name(name)} must be at least {least}, but is {value}.")
            if value is not None and value >= 2**63:
                raise UsageError(f"{flag_name(name)} must be smaller than 2 to the 63rd, but is {value}.")
        if self.lr is not None and not 0 < self.lr < float("inf"):
            raise UsageError(f"--lr must be greater than 0, but is {self.lr}.")
        for entry in fields(self):
            choices, value = entry.metadata.get("choices"), getattr(self, entry.name)
            if value == "":
                raise UsageError(f"{flag_name(entry.name)} is empty. Give a value, or leave the flag out.")
            if choices and value is not None and value not in choices:
                raise UsageError(f"{flag_name(entry.name)} is '{value}'. It can be {', '.join(choices)}.")
        for name in ("dropout", "label_smoothing", "ema", "colour_jitter", "stride_jitter"):
            if (getattr(self, name) or 0) >= 1:
                raise UsageError(f"{flag_name(name)} must be smaller than 1, but is {getattr(self, name)}.")
        if self.zoom is not None and not 0 < self.zoom <= 1:
            raise UsageError(f"--zoom must be greater than 0 and at most 1 (no zoom), but is {self.zoom}.")
        if self.early_stopping and self.val == "none":
            raise UsageError("--early-stopping goes by the validation, and --val none has none. Leave one of them out.")
        if self.freeze != "none" and not self.weights and not self.resume:
            raise UsageError(f"--freeze {self.freeze} keeps weights that are there; give some with --weights.")
        if self.epochs is not None and self.warmup_epochs is not None and self.warmup_epochs >= self.epochs:
            raise UsageError(f"--warmup-epochs ({self.warmup_epochs:g}) must be smaller than --epochs ({self.epochs}).")
        if self.name is not None and (not self.name or Path(self.name).name != self.name or self.name.startswith(".")):
            raise UsageError(f"--name '{self.name}' is no folder name. It names a folder under run/, without slashes.")

    def resolved(self, spec: InputSpec, flip: bool, split: str, workers: int, processes: int = 1) -> "TrainConfig":
        """The same with every None that the recipe, a model or data set answers replaced by the answer.

        The model's learning rate belongs to the model's batch size, and grows in proportion with the clips of a step
        (Goyal et al., Accurate, Large Minibatch SGD, 2017). A rate that is given is taken as it is.
        """
        defaults = model_entry(self.model).defaults
        answers = {
            name: getattr(defaults, name) for name in ("epochs", "batch_size", "lr", "weight_decay", "optimizer")
        }
        answers |= recipe_for(self.recipe, model_options(self.model), bool(self.weights))
        clips = (self.batch_size or answers["batch_size"]) * self.accumulate * processes
        answers["lr"] *= clips / defaults.batch_size
        answers = {name: value for name, value in answers.items() if getattr(self, name) is None}
        epochs, warmup = self.epochs or answers["epochs"], self.warmup_epochs
        return replace(
            self,
            **answers,
            # a default must not stand in the way of a short run
            warmup_epochs=min(defaults.warmup_epochs, epochs / 4) if warmup is None else warmup,
            clip_len=spec.clip_len,
            frame_stride=spec.frame_stride,
            crop_size=spec.crop_size,
            input=spec.input,
            flip=flip,
            split=split,
            workers=workers if self.workers is None else self.workers,
            cache=self.cache or "none",
        )

    def adapt(self, spec: InputSpec) -> InputSpec:
        """The spec with what the command line says of clip and crop."""
        given = {
            name: getattr(self, name)
            for name in ("clip_len", "frame_stride", "crop_size", "input")
            if getattr(self, name) is not None
        }
        return replace(spec, **given)

    def build_options(self) -> dict:
        """What create_model is given beside the number of classes."""
        options = {name: getattr(self, name) for name in ("dropout", "pool5") if getattr(self, name) is not None}
        for pair in self.model_options.split(",") if self.model_options else []:
            name, equals, value = pair.strip().partition("=")
            if not (name and equals and value):
                raise UsageError(f"--model-options '{pair}' is no NAME=VALUE. Write it as pool=last,hidden=256.")
            if name == "in_channels":
                raise UsageError("How many channels the network reads follows from --input rgb, diff or rgb+diff.")
            options[name] = _number_or_text(value)
        return options

    def to_dict(self) -> dict:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict) -> "TrainConfig":
        """From a checkpoint or config.json. A field of another version is an error that names it."""
        known = {entry.name for entry in fields(cls)}
        values = {name: value for name, value in values.items() if name != "environment"}
        unknown = sorted(set(values) - known)
        if unknown:
            raise UserError(f"This run was made by another version of the program: it has the setting '{unknown[0]}'.")
        try:
            return cls(**PLAIN | values)  # what came later was off before
        except TypeError as error:
            raise UserError(f"The settings of this run are damaged: {error}.") from error

    def save(self, path: Path, environment: dict | None = None) -> None:
        """config.json: every setting, and beside them under what the run was made."""
        values = self.to_dict() | ({"environment": environment} if environment else {})
        write_atomically(path, json.dumps(values, indent=2) + "\n")


def saved_settings(path: Path) -> tuple[TrainConfig, dict]:
    """config.json -> the settings, and under what the run was made."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        environment = values.get("environment", {})
    except (ValueError, AttributeError) as error:
        raise UserError(f"{path} is damaged: {error}. Begin a new run.") from error
    return TrainConfig.from_dict(values), environment


def parse_configs(argv: Sequence[str], default_dataset: str, default_model: str) -> list[TrainConfig]:
    """Command line -> a TrainConfig for each network that it names. argparse itself ends with status 2 on an unknown
    flag or a wrong type."""
    description = "Trains a network on a data set and writes a run under run/."
    parser = build_parser(TrainConfig, GROUPS, "python train.py", description)
    given = {name: value for name, value in vars(parser.parse_args(argv)).items() if value is not None}

    if "resume" in given:
        other = sorted(set(given) - set(RESUMABLE))
        if other:
            raise UsageError(
                f"--resume goes on with the run's own settings; {flag_name(other[0])} cannot be changed. "
                f"Only {', '.join(map(flag_name, RESUMABLE[1:-1]))} and {flag_name(RESUMABLE[-1])} can."
            )
        return [TrainConfig(**given)]
    models = given.pop("model", None)
    if models is None:
        models = [(model_named_by(given["weights"]) if "weights" in given else None) or default_model]
    given = {"dataset": default_dataset} | given
    if len(models) == 1:
        return [TrainConfig(model=models[0], **given)]
    twice = next((model for model in models if models.count(model) > 1), None)
    if twice:
        raise UsageError(f"--model names {twice} twice. For runs that differ in --seed, start train.py for each.")
    for model in models:
        model_entry(model)  # an unknown name is said now, and not when the others are done
    name = given.pop("name", None)
    if name is None:
        return [TrainConfig(model=model, **given) for model in models]
    return [TrainConfig(model=model, name=f"{name}-{model}", **given) for model in models]


def _number_or_text(value: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(value)
        except ValueError:
            continue
    return value
