"""Helpers that every package uses. They import none of our packages and no PyTorch.

class_names      class names from a text file
cli              parser with did-you-mean, exit statuses, one-line errors
console          progress, plurals, durations and sizes as text
dataclass_flags  a dataclass whose fields are the flags of a command
drawing          text on pictures
errors           UserError, UsageError, Stopped
figures          matplotlib figures with one look, as pixels and SVG
files            atomic writes, locks, printable paths
input_spec       InputSpec: the clips that a network expects
not_installable  what pip install says
random_streams   seeds of order, clips, mixup and augmentation
torchrun         rank and world size from torchrun's environment
worker_process   child processes that may crash; processors and memory limits
"""
