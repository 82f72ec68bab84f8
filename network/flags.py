"""Flags that name a network: --checkpoint, or --model with --weights. Imports no network."""

import argparse
from pathlib import Path

from common.errors import UsageError
from network.registry import check_model_name
from network.weights.known import known_weights

CHECKPOINT_HELP = "a run's name or folder, a checkpoint, or an exported .onnx or .pt2 file"


def add_network_flags(group: argparse._ActionsContainer, labels: bool = True, device: bool = True) -> None:
    """--model, --weights and --labels, for weights that are no checkpoint of this project; --device and --amp."""
    add = group.add_argument
    add("--model", help="network for --weights; `python -m network` lists the names")
    add("--weights", help="with --model: a file, or a name such as kinetics400")
    if labels:
        add("--labels", type=Path, help="with --model: text file with a class name on each line")
    if not device:
        return
    add("--device", default="auto", help="cuda, cuda:1, mps or cpu (default: a GPU if present)")
    add("--amp", default="auto", choices=("auto", "off", "bf16"), help="precision; auto: bf16 if it is fast")


def check_network_flags(args: argparse.Namespace, checkpoint: str = "--checkpoint FILE") -> None:
    """Raises UsageError unless the flags name one network. Weights that are a checkpoint name their model."""
    labels = getattr(args, "labels", None)
    if args.weights and not args.model:
        from network.weights.read import model_named_by  # reads a checkpoint, so it imports PyTorch

        args.model = model_named_by(args.weights)
    if not args.checkpoint and not args.model:
        raise UsageError(f"No network is given. Give {checkpoint}, or --model NAME with --weights NAME or FILE.")
    if args.checkpoint and (args.model or args.weights or labels):
        given = checkpoint.split()[0]
        flag = "--model" if args.model else "--weights" if args.weights else "--labels"
        raise UsageError(f"{given} holds network, weights and class names. Leave {flag} out, or {given}.")
    if args.model:
        check_model_name(args.model)
    if args.model and not args.weights:
        raise UsageError(f"--model {args.model} needs --weights {' or '.join([*known_weights(args.model), 'FILE'])}.")
