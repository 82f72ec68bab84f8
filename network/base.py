"""What training leaves as it is: nothing, the stem, or the whole trunk.

freeze(model, "trunk")
model.train()            # the trunk stays in eval mode

Without the second line's help a frozen part is not frozen: its batch norms in train mode would norm with each batch's
own mean and count on in their statistics, so that weights that nobody changes answer differently every epoch.
"""

from collections.abc import Iterator

import torch.nn as nn

from common.errors import UsageError

PARTS = ("none", "stem", "trunk")


class VideoModel(nn.Module):
    """A network that knows its parts. Its class says which module is the head, and which make the stem.

    head_name   the last layer, the one that is new for other classes
    stem_names  the first layers, those that see colours and edges
    stage_names the modules that put out the maps of each resolution, from fine to coarse, for --explain; none for a
                network that is not made of convolutions
    frozen      the modules that freeze() chose: train() leaves them in eval mode
    """

    head_name: str
    stem_names: tuple[str, ...]
    stage_names: tuple[str, ...] = ()
    frozen: tuple[str, ...] = ()

    @property
    def trunk_names(self) -> tuple[str, ...]:
        """All but the head, as the fewest modules with parameters or statistics."""
        return tuple(_beside(self.head_name, self))

    def train(self, mode: bool = True) -> "VideoModel":
        super().train(mode)
        for name in self.frozen:
            self.get_submodule(name).eval()
        return self


def freeze(model: VideoModel, part: str) -> tuple[str, ...]:
    """Freezes "none" (of the model), its "stem", or its "trunk", and nothing beside it; returns the modules' names.

    Their parameters get no gradient, and they stay in eval mode when model.train() is called. A dropout without a place
    in a frozen module, such as the one before the head, goes on. A model is frozen after its weights are loaded or
    before, and anew where it is built anew: a state dict does not hold it.
    """
    if part not in PARTS:
        raise UsageError(f"What is frozen must be {', '.join(PARTS)}, but is '{part}'.")
    model.frozen = {"none": (), "stem": model.stem_names, "trunk": model.trunk_names}[part]
    model.requires_grad_(True)
    for name in model.frozen:
        model.get_submodule(name).requires_grad_(False)
    model.train(model.training)
    return model.frozen


def _beside(head_name: str, module: nn.Module, path: str = "") -> Iterator[str]:
    """Names of the largest modules that hold something and not the head."""
    for name, child in module.named_children():
        name = path + name
        if head_name.startswith(f"{name}."):
            yield from _beside(head_name, child, f"{name}.")
        elif name != head_name and child.state_dict():
            yield name
