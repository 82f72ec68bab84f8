"""Serves a network over HTTP: POST /predict recognises the action in a video, and / is a page for people.

    python serve.py run/r2plus1d_18-ucf101-000
    python serve.py r2plus1d.onnx --queue 8
    python serve.py --model r3d_18 --weights kinetics400 --port 8080 --max-size 50
    curl -F video=@clip.mp4 http://127.0.0.1:8000/predict

There is no password: the service listens on this machine only, unless --host says otherwise. docs/serving.md describes
the interface, the limits, and proxies in front of it.
"""

import argparse
import re
from collections.abc import Sequence

from common.cli import Parser, above_zero, at_least, positive, run_cli
from common.files import ROOT
from common.worker_process import num_processors
from engine.inference.prediction import STRIDE
from engine.serving.limits import Limits
from network.flags import CHECKPOINT_HELP, add_network_flags, check_network_flags

DEFAULTS = Limits()


def main(argv: Sequence[str]) -> None:
    args = parse_args(argv)

    # PyTorch takes two seconds, which --help and a misspelt flag do not need
    import mypath
    from engine.inference.recognizer import load_recognizer
    from engine.runs.checkpoint import find_checkpoint
    from engine.serving.server import check_installed, listen, serve

    check_installed()
    with listen(args.host, args.port) as sock:
        checkpoints = [find_checkpoint(args.checkpoint, ROOT / mypath.RUNS)] if args.checkpoint else []
        recognizer = load_recognizer(args, checkpoints)
        serve(sock, recognizer, limits_of(args), args.decoders, args.queue, args.cors)


def parse_args(argv: Sequence[str]) -> argparse.Namespace:
    parser = Parser(
        prog="python serve.py", description="Serves a network over HTTP: recognises the action in uploaded videos."
    )
    network = parser.add_argument_group("network")
    add = network.add_argument
    add("checkpoint", nargs="?", help=CHECKPOINT_HELP)
    add("--checkpoint", dest="named", help=argparse.SUPPRESS)  # as inference.py has it
    add_network_flags(network)
    add("--batch-size", type=positive, default=8, help="windows per batch, from several requests (default: 8)")
    add("--stride", type=positive, help=f"source frames between windows (default: {STRIDE})")
    service = parser.add_argument_group("service")
    add = service.add_argument
    add("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1, this machine only)")
    add("--port", type=port, default=8000, help="port (default: 8000); 0: any free port")
    add("--decoders", type=positive, default=default_decoders(), help="decoder processes (default: %(default)s)")
    add("--queue", type=at_least(0), default=32, metavar="N", help="requests that may wait (default: 32)")
    add("--cors", type=origin, nargs="+", default=[], metavar="ORIGIN", help="other sites whose pages may use it")
    limits = parser.add_argument_group("limits of a request")
    for name, metavar, default, text in (
        ("--max-size", "MB", DEFAULTS.max_bytes / 1e6, "size of a video"),
        ("--max-seconds", "S", DEFAULTS.max_seconds, "length of a video"),
        ("--max-pixels", "N", DEFAULTS.max_pixels, "pixels of a frame"),
        ("--timeout", "S", DEFAULTS.timeout, "time until the response"),
        ("--upload-timeout", "S", DEFAULTS.upload_timeout, "time of an upload"),
    ):
        kind, text = positive if metavar == "N" else above_zero, f"{text} (default: {round(default)})"
        limits.add_argument(name, type=kind, default=default, metavar=metavar, help=text)
    args = parser.parse_args(argv)
    args.checkpoint = args.checkpoint or args.named
    check_network_flags(args, "CHECKPOINT")
    return args


def limits_of(args: argparse.Namespace) -> Limits:
    return Limits(
        max_bytes=round(args.max_size * 1e6),
        max_seconds=args.max_seconds,
        max_pixels=args.max_pixels,
        timeout=args.timeout,
        upload_timeout=args.upload_timeout,
    )


def default_decoders() -> int:
    return min(max(num_processors(), 2), 8)


def port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"'{text}' is not a port: a whole number up to 65535")
    return int(text)


def origin(text: str) -> str:
    """https://example.org or http://localhost:3000, as a browser names a page's site."""
    if not re.fullmatch(r"https?://[^/\s*?#]+", text):
        raise argparse.ArgumentTypeError(
            f"'{text}' is not an origin, such as https://example.org or http://10.0.0.5:3000"
        )
    return text


if __name__ == "__main__":
    run_cli(main)
