"""The program of an exported file: raw frames in, probabilities out, with resize, crop and softmax inside."""

import torch
import torch.nn as nn

from dataloaders.transforms import normalise, pixel_scale
from network import InputSpec


class FrameProgram(nn.Module):
    """(B, T, H, W, 3) uint8 RGB -> (B, num_classes) float32 probabilities, for any B, H and W; T is InputSpec.read_len.

    Frames are resized as preprocessing resizes them (bilinear, rounded to whole numbers; cv2 may round otherwise by one
    level), and their middle square is normalised and shown to the network. Frames that have the stored size already
    pass as they are.

    dtype: what the network computes in; normalisation and softmax are float32 always.
    """

    def __init__(self, network: nn.Module, spec: InputSpec, dtype: torch.dtype = torch.float32):
        super().__init__()
        self.network, self.spec, self.dtype = network, spec, dtype
        mean, std = pixel_scale(spec)
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        torch.ops.aten._assert_tensor_metadata(frames, dtype=torch.uint8)  # of 0 to 1 all would be black
        x = normalise(self.middle_squares(frames), self.spec, self.mean, self.std)  # (B, C, T, S, S)
        return self.network(x.to(self.dtype)).float().softmax(dim=1)

    def middle_squares(self, frames: torch.Tensor) -> torch.Tensor:
        """(B, T, H, W, 3) -> (B, T, S, S, 3) uint8, cut from the resized frames; no other pixel is computed."""
        height, width = (
            torch.scalar_tensor(side, dtype=torch.int64, device=frames.device) for side in frames.shape[2:4]
        )
        resized_height, resized_width = self.resized(height, width)
        is_stored_size = (resized_height == height) & (resized_width == width)
        # A branch, not a resize by 1: that would take a quarter of the time of the smallest networks.
        sizes = (height, width, resized_height, resized_width)
        return torch.cond(is_stored_size, self.cut, self.resize_and_cut, (frames, *sizes))

    def resized(self, height: torch.Tensor, width: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Sizes as whole numbers in tensors of one value -> (height, width) as settings.stored_size has it."""
        if not self.spec.keep_aspect:
            return torch.full_like(height, self.spec.resize[1]), torch.full_like(width, self.spec.resize[0])
        shorter = min(self.spec.resize)
        # one division, so that a tie is one: round goes to the even number here as there
        half = (shorter * torch.maximum(height, width)).double() / (2 * torch.minimum(height, width)).double()
        longer = 2 * half.round().long()
        longer = torch.clamp(longer, min=shorter)
        lies = width >= height
        short = torch.full_like(height, shorter)
        return torch.where(lies, short, longer), torch.where(lies, longer, short)

    def cut(self, frames: torch.Tensor, height: torch.Tensor, width: torch.Tensor, *_: torch.Tensor) -> torch.Tensor:
        rows, columns = (self.places(side) for side in (height, width))
        return frames.index_select(2, rows).index_select(3, columns)

    def resize_and_cut(
        self,
        frames: torch.Tensor,
        height: torch.Tensor,
        width: torch.Tensor,
        resized_height: torch.Tensor,
        resized_width: torch.Tensor,
    ) -> torch.Tensor:
        above, below, down = self.neighbours(height, resized_height)
        left, right, across = self.neighbours(width, resized_width)
        down, across = down.view(-1, 1, 1), across.view(-1, 1)

        lines = []
        for rows in (above, below):
            line = frames.index_select(2, rows)  # (B, T, S, W, 3)
            first, second = (line.index_select(3, columns).float() for columns in (left, right))  # (B, T, S, S, 3)
            lines.append(first + (second - first) * across)
        return (lines[0] + (lines[1] - lines[0]) * down).round().clamp(0, 255).to(torch.uint8)

    def places(self, side: torch.Tensor) -> torch.Tensor:
        """(S,) the pixels in the middle of a line of so many."""
        size = self.spec.crop_size
        first = torch.div(side - size, 2, rounding_mode="floor")
        return first + torch.arange(size, device=side.device)

    def neighbours(self, side: torch.Tensor, resized: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """For each of the S pixels in the middle of a resized line: (S,) the two of the source between whose centres
        its own centre falls, and how far it is from the first to the second, in [0, 1)."""
        centres = (self.places(resized).double() + 0.5) * (side.double() / resized.double()) - 0.5
        centres = centres.clamp(min=0)
        first = centres.floor()
        last = side - 1
        return (torch.minimum(first.long(), last), torch.minimum(first.long() + 1, last), (centres - first).float())
