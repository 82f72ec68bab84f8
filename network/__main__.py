"""python -m network: the models, their size, cost and input; a model's layers; weights converted or checked.

python -m network
python -m network show c3d
python -m network convert conv3d_deepnetA_sport1m_iter_1900000 sports1m.pth --model c3d --labels labels.txt
python -m network check sports1M_weights_tf.h5 --model c3d
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch

from common.cli import Parser, run_cli
from common.errors import UsageError, UserError
from network import InputSpec, list_models, model_entry
from network.cost import count_macs, num_parameters, without_values
from network.weights.read import build_whole, known_weights, read_weights

TABLE_CLASSES = 101  # UCF101's

HEADER = ("model", "parameters", "GMACs", "input, THW", "stride", "weights")

# Sports-1M's classes, and the one with which the published C3D answers a clip of zeros, "sandboarding"
SPORTS1M_CLASSES = 487
SPORTS1M_ZEROS = 184


def main(argv: Sequence[str]) -> int:
    args = parse_args(argv)
    if args.command == "show":
        print_table(list_layers(args.model))
    elif args.command == "convert":
        convert(args.source, args.output, args.model, args.labels)
    elif args.command == "check":
        return check(args.file, args.model)
    else:
        print_models()
    return 0


def parse_args(argv: Sequence[str]) -> argparse.Namespace:
    parser = Parser(
        prog="python -m network",
        description=f"Without a command: every model with its parameters for {TABLE_CLASSES} classes and its "
        "multiply-adds a clip.",
    )
    commands = parser.add_subparsers(dest="command", metavar="show | convert | check")
    show = commands.add_parser("show", help="a model's layers, with output shapes and parameters")
    show.add_argument("model")
    convert = commands.add_parser("convert", help="weights of another program -> a checkpoint of ours")
    convert.add_argument("source", metavar="IN", help="a file, FILE+MEAN, or a name such as kinetics400")
    convert.add_argument("output", metavar="OUT.pth", type=Path)
    convert.add_argument("--model", required=True, help="the network that the weights are for")
    convert.add_argument("--labels", type=Path, help="text file with the name of a class on each line")
    check = commands.add_parser("check", help="are these Sports-1M weights of C3D right?")
    check.add_argument("file", metavar="FILE")
    check.add_argument("--model", required=True, help="c3d")
    return parser.parse_args(argv)


# --- the table


def print_models() -> None:
    """A row for each model. One that cannot be built here, for want of a working torchvision, keeps its place in the
    table, and the reason stands below.
    """
    rows, reasons = [HEADER], {}
    for name in list_models():
        try:
            rows.append(describe_model(name))
        except UserError as error:
            spec = model_entry(name).input_spec
            rows.append((name, "-", "-", *describe_input(spec), "cannot be built, see below"))
            reasons[str(error)] = None
    print_table(rows)
    for reason in reasons:
        print(reason)


def describe_model(name: str) -> tuple[str, ...]:
    """A table row. Nothing is computed or allocated: shapes alone tell the numbers."""
    spec = model_entry(name).input_spec
    model, clip = model_and_clip(name)
    return (
        name,
        f"{num_parameters(model):,}",
        f"{count_macs(model, clip) / 1e9:.2f}",
        *describe_input(spec),
        ", ".join(known_weights(name)) or "-",
    )


def describe_input(spec: InputSpec) -> tuple[str, str]:
    return f"{spec.clip_len}x{spec.crop_size}x{spec.crop_size}", str(spec.frame_stride)


def model_and_clip(name: str) -> tuple[torch.nn.Module, torch.Tensor]:
    return without_values(name, TABLE_CLASSES, model_entry(name).input_spec)


def print_table(rows: list[tuple[str, ...]]) -> None:
    """The first and the last column stand left, those between them right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for first, *middle, last in rows:
        cells = [first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(middle, widths[1:-1], strict=True))]
        print("  ".join([*cells, last]).rstrip())


# --- show


def list_layers(name: str) -> list[tuple[str, ...]]:
    """A header, a row for each layer in the order in which a clip leaves them, and the totals.

    A layer is a module without others inside, or one that has parameters which none of those inside it accounts for,
    because they are its own or because it does the work of its parts itself, as an attention may.
    """
    model, clip = model_and_clip(name)
    rows, counted = [("layer", "output", "parameters", "")], set()

    def note(layer: str):
        def hook(module: torch.nn.Module, _: tuple, output: torch.Tensor | tuple) -> None:
            fresh = {id(value): value.numel() for value in module.parameters() if id(value) not in counted}
            counted.update(fresh)  # a layer may be met more than once
            if fresh or not list(module.children()):
                output = output[0] if isinstance(output, tuple) else output
                shape = "x".join(map(str, output.shape[1:]))
                rows.append((layer, shape, f"{sum(fresh.values()):,}" if fresh else "", describe_layer(module)))

        return hook

    for layer, module in model.named_modules():
        if layer and not isinstance(module, torch.nn.Identity):
            module.register_forward_hook(note(layer))
    macs = count_macs(model, clip)
    size = "x".join(map(str, clip.shape[1:]))
    rows.append(("total", "", f"{num_parameters(model):,}", f"{macs / 1e9:.2f} GMACs for {size}"))
    return rows


def describe_layer(module: torch.nn.Module) -> str:
    """Its kind, and what decides its output: Conv3d 3x3x3 /2."""
    kind = type(module).__name__
    if isinstance(module, torch.nn.Conv2d | torch.nn.Conv3d):
        kind += f" {'x'.join(map(str, module.kernel_size))}"
    elif isinstance(module, torch.nn.MaxPool3d):
        size = module.kernel_size
        kind += f" {'x'.join(map(str, size if isinstance(size, tuple) else (size,) * 3))}"
        kind += ", ceil" if module.ceil_mode else ""
    stride = getattr(module, "stride", 1)
    strided = isinstance(module, torch.nn.Conv2d | torch.nn.Conv3d) and set(stride) != {1}
    return f"{kind} /{'x'.join(map(str, stride))}" if strided else kind


# --- convert and check


def convert(source: str, output: Path, model_name: str, labels: Path | None) -> None:
    """Writes a checkpoint that inference.py, evaluate.py and train.py --weights take."""
    from common.class_names import read_labels
    from engine.runs.checkpoint import save_checkpoint, versions
    from engine.training.config import TrainConfig

    if output.is_dir() or not output.parent.is_dir():
        raise UsageError(f"{output} is to be a file, in a folder that is there.")
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
    """0 where the weights answer a clip of zeros as the published Sports-1M C3D does, else 1."""
    if model_name != "c3d":
        raise UsageError(f"Only c3d has an answer that is known: to a clip of zeros. {model_name} has none.")
    weights = read_weights(source, model_name)
    names = [str(number) for number in range(len(weights.state.get("fc8.weight", ())))]
    model, spec, _, report = build_whole(model_name, weights, names)
    print(report.table())
    if len(names) != SPORTS1M_CLASSES:
        raise UserError(
            f"{source} has {len(names)} classes. An answer is known for the {SPORTS1M_CLASSES} of Sports-1M alone."
        )

    with torch.inference_mode():
        probs = model.eval()(torch.zeros(1, 3, spec.clip_len, spec.crop_size, spec.crop_size)).softmax(dim=1)[0]
    top = int(probs.argmax())
    found = f"Zeros in: class {top} of {SPORTS1M_CLASSES} is the top one, {100 * probs[top]:.1f} %"
    if top == SPORTS1M_ZEROS:
        print(f"{found}. So it is with the published weights: these are right.")
        return 0
    print(f"{found}. With the published weights it is class {SPORTS1M_ZEROS}: these are not those, or read wrongly.")
    return 1


if __name__ == "__main__":
    run_cli(main)
