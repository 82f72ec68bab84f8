"""python -m network: the models, their size, cost and input; a model's layers; weights converted or checked.

python -m network
python -m network show c3d
python -m network convert conv3d_deepnetA_sport1m_iter_1900000 sports1m.pth --model c3d --labels labels.txt
python -m network check sports1M_weights_tf.h5 --model c3d
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from common.cli import Parser, run_cli
from common.errors import UsageError, UserError
from network.registry import check_model_name
from network.table import print_models

# Sports-1M's number of classes, and the class ("sandboarding") that the published C3D gives a clip of zeros
SPORTS1M_CLASSES = 487
SPORTS1M_ZEROS = 184


def main(argv: Sequence[str]) -> int:
    args = parse_args(argv)
    # these import PyTorch, which takes two seconds: not for --help and a misspelt flag
    if args.command == "convert":
        convert(args.source, args.output, args.model, args.labels)
    elif args.command == "check":
        return check(args.file, args.model)
    elif args.command == "show":
        from network.cost import print_layers

        print_layers(args.model)
    else:
        print_models()
    return 0


def parse_args(argv: Sequence[str]) -> argparse.Namespace:
    parser = Parser(
        prog="python -m network",
        description="Without a command, lists all models: parameters (101 classes), multiply-adds per clip, input, "
        "train.py's defaults, and pretrained weights with their published accuracy.",
    )
    commands = parser.add_subparsers(dest="command", metavar="show | convert | check")
    show = commands.add_parser("show", help="print a model's layers with output shapes and parameters")
    show.add_argument("model", metavar="NAME")
    convert = commands.add_parser("convert", help="convert weights of another program into a checkpoint")
    convert.add_argument("source", metavar="IN", help="a file, FILE+MEAN, or a name such as kinetics400")
    convert.add_argument("output", metavar="OUT.pth", type=Path)
    convert.add_argument("--model", required=True, metavar="NAME", help="network of the weights")
    convert.add_argument("--labels", type=Path, metavar="FILE", help="text file with a class name on each line")
    check = commands.add_parser("check", help="check that a file holds the published Sports-1M weights of C3D")
    check.add_argument("file", metavar="FILE")
    check.add_argument("--model", required=True, metavar="NAME", help="c3d")
    args = parser.parse_args(argv)
    if args.command in ("show", "convert"):
        check_model_name(args.model)
    elif args.command == "check" and args.model != "c3d":
        raise UsageError(f"'check' needs c3d, whose output for a clip of zeros is known, not {args.model}.")
    return args


def convert(source: str, output: Path, model_name: str, labels: Path | None) -> None:
    """Writes a checkpoint for inference.py, evaluate.py and train.py --weights."""
    from common.class_names import read_labels
    from engine.runs.checkpoint import save_checkpoint, versions
    from engine.training.config import TrainConfig
    from network.weights.read import build_whole, read_weights

    if output.is_dir() or not output.parent.is_dir():
        raise UsageError(f"{output} must be a file name in an existing folder.")
    classes = read_labels(labels) if labels else None
    weights = read_weights(source, model_name)
    model, spec, classes, report = build_whole(model_name, weights, classes, f"--labels {labels}")
    save_checkpoint(
        output,
        {
            "model": model.state_dict(),
            "model_options": model.options,
            "ema": None,
            "epoch": 0,
            "step": 0,
            "best_top1": None,
            "best_loss": None,
            "config": TrainConfig(model=model_name).to_dict(),
            "input_spec": spec.to_dict(),
            "classes": classes,
            "split": {"name": "none", "hash": "", "training_groups": []},
            "pretrained": True,
            "versions": versions(),
        },
    )
    print(report.table())
    print(f"{output}: {model_name}, {len(classes)} classes. Use it with --checkpoint {output}")


def check(source: str, model_name: str) -> int:
    """Returns 0 where the weights give a clip of zeros the same class as the published Sports-1M C3D, else 1."""
    import torch

    from network.weights.read import build_whole, read_weights

    weights = read_weights(source, model_name)
    names = [str(number) for number in range(len(weights.state.get("fc8.weight", ())))]
    model, spec, _, report = build_whole(model_name, weights, names)
    print(report.table())
    if len(names) != SPORTS1M_CLASSES:
        raise UserError(
            f"{source} has {len(names)} classes, and only the {SPORTS1M_CLASSES} of Sports-1M can be checked."
        )

    with torch.inference_mode():
        probs = model.eval()(torch.zeros(1, 3, spec.clip_len, spec.crop_size, spec.crop_size)).softmax(dim=1)[0]
    top = int(probs.argmax())
    found = f"For a clip of zeros class {top} of {SPORTS1M_CLASSES} is the most probable, with {100 * probs[top]:.1f} %"
    if top == SPORTS1M_ZEROS:
        print(f"{found}, as for the published weights: these are right.")
        return 0
    print(f"{found}. The published weights give class {SPORTS1M_ZEROS}: these are other weights, or misread.")
    return 1


if __name__ == "__main__":
    run_cli(main)
