"""Loads LoadedWeights into a network, with a report of every parameter."""

from dataclasses import dataclass, field, replace

import torch
import torch.nn as nn
from torch import Tensor

from common.console import plural
from common.errors import UserError
from common.input_spec import InputSpec
from network.base import UndrawnWeights
from network.input_channels import widen_weights
from network.registry import create_model, input_spec
from network.weights.loaded import LoadedWeights, check_finite

MIN_MATCH = 0.9


@dataclass
class KeyReport:
    """The result of load_into: parameter names with their numbers of values.

    loaded         in the file and in the model
    renamed        of these, name in the file -> name in the model
    skipped        in the file only, or of another shape, or a head for other classes
    reinitialised  in the model only: they keep their initial values
    head           reason for a new last layer; "" where it was loaded
    widened        note on new channels of the first layer, which begin at zero; "" where there are none
    notes          changes and assumptions, one sentence each
    """

    origin: str
    loaded: dict[str, int]
    renamed: dict[str, str]
    skipped: dict[str, int]
    reinitialised: dict[str, int]
    head: str
    widened: str = ""
    notes: list[str] = field(default_factory=list)

    def table(self) -> str:
        """The report as text, one line a field with the first names."""
        rows = [
            ("loaded", self.loaded, ""),
            ("  renamed", {name: self.loaded[name] for name in self.renamed.values()}, _arrows(self.renamed)),
            ("skipped", self.skipped, _first(self.skipped)),
            ("re-initialised", self.reinitialised, _first(self.reinitialised)),
        ]
        lines = [f"Weights from {self.origin}", f"{'':16}{'names':>6}{'values':>13}"]
        for title, values, names in rows:
            lines.append(f"{title:16}{len(values):>6}{sum(values.values()):>13,}  {names}".rstrip())
        if self.head:
            lines.append(f"The last layer starts anew: {self.head}.")
        lines += self.notes
        return "\n".join(lines)


def load_into(model: nn.Module, weights: LoadedWeights, classes: list[str] | None = None) -> KeyReport:
    """Copies weights into a newly built model and returns the report.

    The last layer (model.head_name) keeps its initial values where the file's has another number of classes or, with
    both lists of names known, other classes or another order. Raises UserError and leaves the model unchanged where
    less than 90 % of the other values match (of those under weights.part, where the file is for a part).
    """
    check_finite(weights.origin, weights.state)
    state, widened = widen_weights(model, weights.state, weights.input_spec.input if weights.input_spec else "rgb")
    weights = replace(weights, state=state, notes=[*weights.notes, widened] if widened else weights.notes)
    own = model.state_dict()
    head = {name for name in own if name.startswith(f"{model.head_name}.")}
    reason = _why_new_head(model.head_name, own, head, weights, classes)

    fits = {
        name: value
        for name, value in weights.state.items()
        if name in own and value.shape == own[name].shape and not (reason and name in head)
    }
    body = [name for name in own if name not in head and name.startswith(weights.part)]
    trunk = sum(own[name].numel() for name in body)
    matched = sum(own[name].numel() for name in body if name in fits)
    if matched < MIN_MATCH * trunk:
        raise UserError(
            f"{weights.origin} does not fit this model: {100 * matched / trunk:.0f} % of the trunk's values match, "
            f"{100 * MIN_MATCH:.0f} % are needed. Only in the file: {_misfits(weights.state, own)}. "
            f"Only in the model: {_misfits(own, weights.state)}."
        )
    model.load_state_dict(fits, strict=False)

    return KeyReport(
        origin=weights.origin,
        loaded={name: value.numel() for name, value in fits.items()},
        renamed={old: new for old, new in weights.renamed.items() if new in fits},
        skipped={name: value.numel() for name, value in weights.state.items() if name not in fits},
        reinitialised={name: value.numel() for name, value in own.items() if name not in fits},
        head=reason,
        widened=widened,
        notes=[*weights.notes, *_notes_on_options(model, weights), *_notes_on_classes(weights, classes, reason)],
    )


def build_whole(
    model_name: str, weights: LoadedWeights, classes: list[str] | None = None, owner: str = "the list"
) -> tuple[nn.Module, InputSpec, list[str], KeyReport]:
    """Builds a network whose every parameter comes from the weights -> network, input, class names and report.

    classes: names in the order of the logits; None: those of the weights. whose: the source of `classes` in messages.
    Raises UserError where names or a parameter are missing, or the number of names is not that of the last layer.
    """
    with torch.device("meta"):  # its names and shapes alone
        head = f"{create_model(model_name, 1).head_name}.weight"
    if head not in weights.state:
        raise UserError(f"{weights.origin} has no last layer ({head}), so it cannot name a class. Train one first.")
    num_classes, classes = len(weights.state[head]), classes or weights.classes
    if not classes:
        raise UserError(
            f"{weights.origin} does not name its {num_classes} classes. Give --labels FILE, one name per line."
        )
    if len(classes) != num_classes:
        raise UserError(
            f"{weights.origin} has {plural(num_classes, 'class')}, and {owner} has {plural(len(classes), 'name')}."
        )

    with UndrawnWeights():
        model = create_model(model_name, num_classes, **weights.options)
    report = load_into(model, weights)
    missing = [name for name in report.reinitialised if not name.endswith("num_batches_tracked")]
    if missing:
        name = min(missing, key=lambda name: name in weights.state)  # a head without its bias is left out as a whole
        raise UserError(f"{weights.origin} has no {name} for {model_name}, which would stay random.")
    return model, weights.input_spec or input_spec(model_name), list(classes), report


def _why_new_head(
    head_name: str, own: dict[str, Tensor], head: set[str], weights: LoadedWeights, classes: list[str] | None
) -> str:
    missing = sorted(name for name in head if name not in weights.state)
    if missing:
        return f"the file has no {missing[0]}"

    there, here = weights.state[f"{head_name}.weight"], own[f"{head_name}.weight"]
    if there.shape[:1] != here.shape[:1]:
        return f"{head_name} has {there.shape[0]} classes in the file and {here.shape[0]} here"
    if any(weights.state[name].shape != own[name].shape for name in head):
        return f"{head_name} has {_size(there)} values in the file and {_size(here)} here"

    if classes is not None and weights.classes is not None and list(classes) != list(weights.classes):
        at = next((i for i, pair in enumerate(zip(weights.classes, classes, strict=False)) if pair[0] != pair[1]), 0)
        return f"class {at} is '{weights.classes[at]}' in the file and '{classes[at]}' here"
    return ""


def _misfits(left: dict[str, Tensor], right: dict[str, Tensor], limit: int = 4) -> str:
    """The first names of `left` that are missing in `right` or have another shape there."""
    names = [
        f"{name} ({_size(value)})"
        for name, value in left.items()
        if name not in right or right[name].shape != value.shape
    ]
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more if names else "none"


def _size(value: Tensor) -> str:
    return "x".join(map(str, value.shape)) or "a number"


def _notes_on_options(model: nn.Module, weights: LoadedWeights) -> list[str]:
    options = getattr(model, "options", {})
    return [
        f"The network is built with {name} = {options.get(name, value)}"
        + (f", though these weights were trained with {value}." if options.get(name, value) != value else ".")
        for name, value in weights.options.items()
    ]


def _notes_on_classes(weights: LoadedWeights, classes: list[str] | None, new_head: str) -> list[str]:
    if classes is None or weights.classes is not None or new_head:
        return []
    return ["The file has no class names; its last layer is used for these classes, in this order."]


def _first(names: dict[str, int], limit: int = 4) -> str:
    more = f", ... {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(list(names)[:limit]) + more


def _arrows(renamed: dict[str, str]) -> str:
    return next((f"{old} -> {new}" for old, new in renamed.items()), "") + (", ..." if len(renamed) > 1 else "")
