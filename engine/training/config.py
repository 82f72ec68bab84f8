"""TrainConfig: command line, config.json, checkpoint content and test fixture in one dataclass."""

import json
import os
import re
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

from common.dataclass_flags import check_values, flag
from common.errors import UsageError, UserError
from common.files import unfit_for_windows, write_atomically
from common.input_spec import INPUTS, InputSpec
from dataloaders.sources.splits import SPLITS
from engine.training.recipes import PLAIN, RECIPES, clips_of_recipe, recipe_for
from network import model_entry, model_options

DATA, NETWORK, OPTIMISATION = "data", "network and its clips", "optimisation"  # headings of --help
RECIPE, MACHINE, RUN = "recipe", "machine", "run"


@dataclass(frozen=True)
class TrainConfig:
    """Every setting of a training run. A field is the flag, its default, its bounds and its help.

    None stands for the value of the recipe, the model or the data set, which resolved() fills in.
    """

    dataset: str | None = flag(
        None, "name in mypath.py, a folder of class folders, or a list (.csv, .txt)", DATA, metavar="NAME|FOLDER|LIST"
    )
    frames: str | None = flag(
        None, "folder of the extracted frames (default: as in mypath.py, or FOLDER-frames)", DATA, metavar="DIR"
    )
    split: str | None = flag(None, "division into training and test videos, or fold-K-of-N", DATA, choices=SPLITS)
    val: str = flag(
        "auto", "auto: hold out recordings for validation; none: hold out none", DATA, choices=("auto", "none")
    )
    folds: str | None = flag(
        None,
        "cross-validate: train and test N runs, each of which leaves other recordings out",
        DATA,
        metavar="N|groups",
    )
    learning_curve: bool = flag(False, "train and test on 1/8 to all of the recordings: what would more bring?", DATA)
    flip: bool | None = flag(None, "mirror half of the training clips (default: set in mypath.py)", DATA)
    workers: int | None = flag(
        None, "worker processes for clips; 0: none (default: one per processor, at most 16)", DATA, at_least=0
    )
    cache: str | None = flag(
        None, "ram: keep decoded frames in memory, so each is decoded once", DATA, choices=("ram", "none")
    )
    model: str | None = flag(
        None, "network, or several for one run per network; `python -m network` lists them", NETWORK, several=True
    )
    weights: str | None = flag(
        None, "pretrained weights: a file, a run, or a name such as kinetics400", NETWORK, metavar="NAME|FILE"
    )
    freeze: str = flag("none", "part that is not trained", NETWORK, choices=("none", "stem", "trunk"))
    dropout: float | None = flag(None, "dropout before the last layer", NETWORK, at_least=0, below=1)
    pool5: str | None = flag(
        None, "padding of C3D's pool5: ceil as in Caffe, or symmetric", NETWORK, choices=("ceil", "symmetric")
    )
    model_options: str | None = flag(
        None,
        "further options of the model, such as pool=last,hidden=256 for cnn_lstm",
        NETWORK,
        metavar="NAME=VALUE,...",
    )
    input: str | None = flag(None, "frames, differences of neighbouring frames, or both", NETWORK, choices=INPUTS)
    clip_len: int | None = flag(None, "frames per clip", NETWORK, at_least=1)
    frame_stride: int | None = flag(None, "step between a clip's frames, in source frames", NETWORK, at_least=1)
    crop_size: int | None = flag(None, "side of the square crop, in pixels", NETWORK, at_least=1)
    epochs: int | None = flag(None, "passes over the training videos", OPTIMISATION, at_least=1)
    batch_size: int | None = flag(None, "clips per batch, on each GPU", OPTIMISATION, at_least=1)
    accumulate: int = flag(1, "batches whose gradients are added in each step", OPTIMISATION, at_least=1)
    optimizer: str | None = flag(
        None, "optimiser (default: the model's)", OPTIMISATION, choices=("sgd", "adam", "adamw")
    )
    lr: float | None = flag(
        None, "peak learning rate (default: the model's, scaled by the clips per step)", OPTIMISATION, above=0
    )
    weight_decay: float | None = flag(None, "weight decay, except of norm layers and biases", OPTIMISATION, at_least=0)
    schedule: str = flag(
        "cosine",
        "cosine to zero, or step: a tenth at 50 %% and 75 %% of the run",
        OPTIMISATION,
        choices=("cosine", "step"),
    )
    warmup_epochs: float | None = flag(
        None, "epochs over which the learning rate rises to --lr", OPTIMISATION, at_least=0
    )
    head_lr_scale: float = flag(10.0, "factor on --lr for layers not in --weights", OPTIMISATION, at_least=0)
    clip_grad: float | None = flag(
        None, "limit the norm of the gradients to this value; 0: no limit", OPTIMISATION, metavar="NORM", at_least=0
    )
    recipe: str = flag(
        "plain", "defaults for flags not given; docs/training.md lists them", RECIPE, choices=tuple(RECIPES)
    )
    clips_per_video: int | None = flag(None, "clips drawn from each video per epoch", RECIPE, metavar="K", at_least=1)
    stride_jitter: float | None = flag(
        None, "vary the frame stride at random by up to this fraction, such as 0.3", RECIPE, at_least=0, below=1
    )
    zoom: float | None = flag(
        None, "random resized crops of at least this fraction, such as 0.6; 1: off", RECIPE, above=0, at_most=1
    )
    colour_jitter: float | None = flag(
        None, "vary brightness, contrast and saturation by up to this fraction", RECIPE, at_least=0, below=1
    )
    label_smoothing: float | None = flag(
        None, "fraction of the target spread over all classes, such as 0.1", RECIPE, at_least=0, below=1
    )
    class_weights: str | None = flag(
        None, "balanced: weight the loss by inverse class frequency", RECIPE, choices=("none", "balanced")
    )
    mixup: float | None = flag(
        None, "blend pairs of clips, weights from Beta(ALPHA, ALPHA), such as 0.2", RECIPE, metavar="ALPHA", at_least=0
    )
    cutmix: float | None = flag(
        None, "paste a box of one clip into another, such as 1", RECIPE, metavar="ALPHA", at_least=0
    )
    ema: float | None = flag(
        None,
        "also keep an exponential moving average of the weights, such as 0.999",
        RECIPE,
        metavar="DECAY",
        at_least=0,
        below=1,
    )
    early_stopping: int | None = flag(
        None, "stop after this many epochs without better validation; 0: never", RECIPE, metavar="EPOCHS", at_least=0
    )
    device: str = flag("auto", "cuda, cuda:1, mps or cpu; auto: a GPU if present", MACHINE)
    amp: str = flag(
        "auto", "mixed precision; auto: bf16 on GPUs that support it", MACHINE, choices=("auto", "off", "bf16", "fp16")
    )
    compile: str = flag(
        "auto",
        "torch.compile; auto: on a GPU, unless the run is short",
        MACHINE,
        choices=("auto", "on", "off"),
        switch=True,
    )
    deterministic: bool = flag(False, "bit-identical results from run to run on a GPU too; slower", MACHINE)
    name: str | None = flag(None, "name of the run's folder (default: <model>-<dataset>-000, 001, ...)", RUN)
    runs: str | None = flag(None, "folder of the run's folder (default: as in mypath.py)", RUN, metavar="DIR")
    seed: int = flag(0, "random seed of weights, clips and their order", RUN, at_least=0)
    val_clips: int = flag(3, "clips per video in the validation after each epoch", RUN, at_least=1)
    resume: str | None = flag(None, "continue this run with its own settings", RUN, metavar="RUN")
    test: bool = flag(False, "evaluate best.pth on the test videos at the end, as evaluate.py does", RUN)
    save_every: float = flag(
        10.0, "also write last.pth during an epoch; 0: at its end only", RUN, metavar="MINUTES", at_least=0
    )
    on_full_disk: str | None = flag(
        None, "no space for a checkpoint: stop, or wait until there is some", RUN, choices=("stop", "wait")
    )

    def __post_init__(self) -> None:
        if isinstance(self.compile, bool):  # as older runs have it
            object.__setattr__(self, "compile", "on" if self.compile else "off")
        check_values(self)
        if self.folds is not None:
            object.__setattr__(self, "folds", str(self.folds))
            if self.folds != "groups" and not (self.folds.isdecimal() and int(self.folds) >= 2):
                raise UsageError(
                    f"--folds {self.folds} is neither a number from 2 on nor 'groups' (one for each recording)."
                )
            if self.folds == "groups" and self.learning_curve:
                raise UsageError("--learning-curve takes --folds with a number, not groups.")
            if self.split and not self.split.startswith("train-"):
                raise UsageError(f"--folds divides the videos itself. Leave --split {self.split} out.")
        if self.early_stopping and self.val == "none":
            raise UsageError("--early-stopping needs validation, but --val none disables it. Leave one of them out.")
        if self.freeze != "none" and not self.weights and not self.resume:
            raise UsageError(f"--freeze {self.freeze} keeps pretrained weights; give some with --weights.")
        if self.recipe == "finetune" and not self.weights and not self.resume:
            raise UsageError("--recipe finetune needs pretrained weights; give some with --weights.")
        if self.recipe == "scratch" and self.weights:
            raise UsageError("--recipe scratch is for training without --weights. Use --recipe finetune.")
        if self.epochs is not None and self.warmup_epochs is not None and self.warmup_epochs >= self.epochs:
            raise UsageError(f"--warmup-epochs ({self.warmup_epochs:g}) must be smaller than --epochs ({self.epochs}).")
        unfit = self.name is not None and os.name == "nt" and unfit_for_windows(self.name)
        if unfit or (self.name is not None and not re.fullmatch(r"\w[^/\\\x00-\x1f]*", self.name)):
            raise UsageError(
                f"--name '{self.name}' is not a name for a run. Give one without slashes that begins with a letter or "
                "digit."
            )

    def resolved(self, spec: InputSpec, flip: bool, split: str, workers: int, processes: int = 1) -> "TrainConfig":
        """Fills in every None from the recipe, the model and the data set.

        The model's learning rate belongs to the model's batch size, and grows with the clips of a step (lr_scale). A
        rate that is given is taken as it is.
        """
        defaults = model_entry(self.model).defaults
        answers = {
            name: getattr(defaults, name) for name in ("epochs", "batch_size", "lr", "weight_decay", "optimizer")
        }
        answers |= recipe_for(self.recipe, model_options(self.model))
        clips = (self.batch_size or answers["batch_size"]) * self.accumulate * processes
        answers["lr"] *= lr_scale(self.optimizer or answers["optimizer"], clips / defaults.batch_size)
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
            on_full_disk=self.on_full_disk or "stop",
        )

    def adapt(self, spec: InputSpec) -> InputSpec:
        """The spec with the clip and crop flags of the command line, and those of the recipe."""
        given = {
            name: getattr(self, name)
            for name in ("clip_len", "frame_stride", "crop_size", "input")
            if getattr(self, name) is not None
        }
        return replace(spec, **clips_of_recipe(self.recipe) | given)

    def build_options(self) -> dict:
        """The options of create_model beside the number of classes."""
        options = {name: getattr(self, name) for name in ("dropout", "pool5") if getattr(self, name) is not None}
        for pair in self.model_options.split(",") if self.model_options else []:
            name, equals, value = pair.strip().partition("=")
            if not (name and equals and value):
                raise UsageError(f"--model-options '{pair}' is not NAME=VALUE. Write it as pool=last,hidden=256.")
            if name == "in_channels":
                raise UsageError("--input rgb, diff or rgb+diff sets the number of input channels.")
            options[name] = _number_or_text(value)
        return options

    def to_dict(self) -> dict:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict) -> "TrainConfig":
        """Rebuilds settings from a checkpoint or config.json. An unknown field is an error that names it."""
        known = {entry.name for entry in fields(cls)}
        values = {name: value for name, value in values.items() if name != "environment"}
        if values.get("pretrain") is False:  # a setting of one version
            del values["pretrain"]
        unknown = sorted(set(values) - known)
        if unknown:
            raise UserError(f"This run was made by another version of the program: it has the setting '{unknown[0]}'.")
        recipe = values.get("recipe")
        if recipe == "strong" or (recipe == "scratch" and values.get("weights")):  # older runs, which have its settings
            values["recipe"] = "plain"
        try:
            return cls(**PLAIN | values)  # what came later was off before
        except TypeError as error:
            raise UserError(f"The settings of this run are damaged: {error}.") from error

    def save(self, path: Path, environment: dict | None = None) -> None:
        """Writes config.json: every setting, and the environment of the run."""
        values = self.to_dict() | ({"environment": environment} if environment else {})
        write_atomically(path, json.dumps(values, indent=2) + "\n")


def lr_scale(optimizer: str, ratio: float) -> float:
    """The factor of the learning rate for steps of `ratio` times as many clips: the ratio for SGD (Goyal et al.,
    Accurate, Large Minibatch SGD, 2017), its root for Adam and AdamW, whose steps do not grow with the gradient's noise
    (Malladi et al., On the SDEs and Scaling Rules for Adaptive Gradient Algorithms, 2022)."""
    return ratio if optimizer == "sgd" else ratio**0.5


def saved_settings(path: Path) -> tuple[TrainConfig, dict]:
    """Reads config.json: the settings, and the environment of the run."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        environment = values.get("environment", {})
    except (ValueError, AttributeError) as error:
        raise UserError(f"{path} is damaged: {error}. Begin a new run.") from error
    return TrainConfig.from_dict(values), environment


def _number_or_text(value: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(value)
        except ValueError:
            continue
    return value
