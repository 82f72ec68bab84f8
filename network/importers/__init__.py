"""Weights from elsewhere: one file a format, each turning what it reads into LoadedWeights."""

from dataclasses import dataclass, field

from torch import Tensor

from network.registry import InputSpec


@dataclass
class LoadedWeights:
    """A file's parameters under our names, and what the file knows about them.

    state       parameter name -> tensor, on the CPU
    input_spec  what the network saw while it learnt these; None: the file does not say, so the model's own holds
    classes     class names in the order of the logits; None: the file does not say
    origin      where they come from, for people to read
    renamed     name in the file -> our name, where the two differ
    """

    state: dict[str, Tensor]
    input_spec: InputSpec | None
    classes: list[str] | None
    origin: str
    renamed: dict[str, str] = field(default_factory=dict)
