"""Metadata stored in exported files: JSON under KEY, in the metadata of a .onnx and of a .safetensors file, and as
<KEY>.json in the archive of a .pt2 file."""

import json
import platform
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from datetime import datetime

from common.errors import UserError
from common.files import utf8
from common.input_spec import InputSpec, WholeFrameSpec
from engine.runs.checkpoint import TrainedModel, versions, weights_hash
from network.weights.safetensors import KEY

__all__ = ["KEY", "Metadata", "describe", "read_metadata"]

FORMAT = 1  # grows where a key changes its meaning or goes, not where one is added

SETTINGS = ("model", "dataset", "split", "val", "weights", "freeze")  # of a run, that evaluation asks for


@dataclass(frozen=True)
class Metadata:
    """
    format          of this metadata
    classes         names in the order of the probabilities
    input_spec      InputSpec.to_dict() of the network inside
    arithmetic      float32, float16 or bfloat16
    model           its name here, and model_options with which it was built
    config          the run's settings that evaluation needs; of a path of the data set's, too
    split           name, lists' hash, and the recordings that training and validation saw: what a test must not touch
    weights_hash    as in test.json; parameters: how many values the network has learnt
    epoch, step     of the run; pretrained: whether these are weights from elsewhere, as they came
    versions, date  of what wrote the file, and when
    """

    format: int
    classes: list
    input_spec: dict
    arithmetic: str
    model: str
    model_options: dict
    config: dict
    split: dict
    weights_hash: str
    parameters: int
    epoch: int
    step: int
    pretrained: bool
    versions: dict
    date: str

    def to_json(self) -> str:
        return utf8(json.dumps(asdict(self), ensure_ascii=False)).decode()

    @property
    def spec(self) -> WholeFrameSpec:
        """The input of the file: whole frames, with the clip of the network."""
        return WholeFrameSpec.from_dict(self.input_spec)

    def checkpoint(self) -> dict:
        """The part of a checkpoint that tells where weights come from."""
        names = ("config", "split", "epoch", "step", "pretrained")
        return {name: getattr(self, name) for name in names}


def describe(trained: TrainedModel, arithmetic: str, versions_of_format: Mapping[str, str]) -> Metadata:
    content = trained.checkpoint
    config = content.get("config", {})
    settings = {name: config[name] for name in SETTINGS if name in config}
    if settings.get("weights"):  # the name of the file; where it lay is nobody else's business
        settings["weights"] = re.split(r"[/\\]", settings["weights"])[-1]
    return Metadata(
        format=FORMAT,
        classes=list(trained.classes),
        input_spec=trained.input_spec.to_dict(),
        arithmetic=arithmetic,
        model=trained.name,
        model_options=dict(getattr(trained.model, "options", {})),
        config=settings,
        split={name: value for name, value in (content.get("split") or {}).items() if not name.endswith("_videos")},
        weights_hash=weights_hash(trained.model),
        parameters=sum(value.numel() for value in trained.model.parameters()),
        epoch=content.get("epoch", 0),
        step=content.get("step", 0),
        pretrained=bool(content.get("pretrained")),
        versions={"python": platform.python_version(), **versions(), **versions_of_format},
        date=datetime.now().astimezone().isoformat(timespec="seconds"),
    )


def read_metadata(text: str | None, where: str) -> Metadata:
    """The JSON of a file that anybody may have written. Raises UserError for all that this program has not."""
    if text is None:
        raise UserError(f"{where} has no class names and no InputSpec in it; was it written by export.py?")
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where} is damaged: its metadata is not JSON. Export it again.") from error
    if not isinstance(values, dict) or type(values.get("format")) is not int:
        raise UserError(f"{where} has no format number; was it written by export.py?")
    if values["format"] > FORMAT:
        raise UserError(f"{where} was written by a newer version of this program (format {values['format']}).")
    for field in fields(Metadata):
        if type(values.get(field.name)) is not field.type:
            raise UserError(f"{where}: its '{field.name}' is missing or damaged. Export it again.")
    metadata = Metadata(**{field.name: values[field.name] for field in fields(Metadata)})

    if not metadata.classes or not all(type(name) is str for name in metadata.classes):
        raise UserError(f"{where} has no class names. Export it again.")
    groups = [metadata.split.get(name, []) for name in ("training_groups", "validation_groups", "seen_groups")]
    if not all(type(names) is list and all(type(name) is str for name in names) for names in groups):
        raise UserError(f"{where}: its 'split' is damaged. Export it again.")
    _check_spec(metadata.input_spec, where)
    if not re.fullmatch(r"[0-9a-f]{16}", metadata.weights_hash):
        raise UserError(f"{where}: its 'weights_hash' is damaged. Export it again.")
    return metadata


def _check_spec(values: dict, where: str) -> None:
    """Each value of the kind that an InputSpec has there, and together such that one can be made."""
    like = InputSpec(fps=1.0).to_dict()
    for name, value in values.items():
        numbers = list(value) if isinstance(value, list) else [value]
        wanted = list(like.get(name, ())) if isinstance(like.get(name), list) else [like.get(name)]
        kinds = [(int, float) if isinstance(one, float) else type(one) for one in wanted]
        fits = len(numbers) == len(kinds) and all(map(_is, numbers, kinds))
        if name not in like or not (fits or (name == "fps" and value is None)):
            raise UserError(f"{where}: its input_spec has {name}={value!r}, which no version of this program writes.")
    try:
        InputSpec.from_dict(values)
    except (TypeError, UserError) as error:
        raise UserError(f"{where}: its input_spec cannot be used: {error}") from error


def _is(value: object, kind: type | tuple[type, ...]) -> bool:
    return isinstance(value, kind) and isinstance(value, bool) == (kind is bool)
