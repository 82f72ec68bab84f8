"""The command line of serve.py."""

import argparse
from collections.abc import Sequence

from common.cli import Parser, above_zero, positive
from common.errors import UserError
from common.worker_process import num_processors
from engine.inference.options import CHECKPOINT_HELP, STRIDE, add_network, check_network
from engine.serving.limits import Limits

DEFAULTS = Limits()


def parse_args(argv: Sequence[str]) -> argparse.Namespace:
    parser = Parser(prog="python serve.py", description="Answers over HTTP which action a video shows.")
    network = parser.add_argument_group("network")
    add = network.add_argument
    add("checkpoint", nargs="?", help=CHECKPOINT_HELP)
    add_network(network)
    add("--batch-size", type=positive, default=8, help="windows in one step, of several requests (default: 8)")
    add("--stride", type=positive, help=f"frames between windows where a request does not say (default: {STRIDE})")
    service = parser.add_argument_group("service")
    add = service.add_argument
    add("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1, this machine only)")
    add("--port", type=port, default=8000, help="default: 8000; 0 takes a free one")
    add("--decoders", type=positive, default=default_decoders(), help="videos decoded at a time (default: %(default)s)")
    add("--queue", type=number, default=32, metavar="N", help="requests that may wait (default: 32)")
    limits = parser.add_argument_group("limits of a request")
    add = limits.add_argument
    add("--max-size", type=above_zero, default=DEFAULTS.max_bytes / 1e6, metavar="MB", help="default: %(default)g")
    add("--max-seconds", type=above_zero, default=DEFAULTS.max_seconds, metavar="S", help="default: %(default)g")
    add("--max-pixels", type=positive, default=DEFAULTS.max_pixels, metavar="N", help="a picture; default: %(default)s")
    add(
        "--timeout",
        type=above_zero,
        default=DEFAULTS.timeout,
        metavar="S",
        help="of the answer; default: %(default)g",
    )
    add("--upload-timeout", type=above_zero, default=DEFAULTS.upload_timeout, metavar="S", help="default: %(default)g")
    args = parser.parse_args(argv)
    check_network(args, "CHECKPOINT")
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
        raise argparse.ArgumentTypeError(f"'{text}' is no port: a whole number up to 65535")
    return int(text)


def number(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number of at least 0")
    return int(text)


def check_installed() -> None:
    """Raises UserError where what only the service needs is missing."""
    try:
        import fastapi  # noqa: F401
        import python_multipart  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"serve.py needs {error.name}, which is not installed: pip install fastapi uvicorn python-multipart"
        ) from error
