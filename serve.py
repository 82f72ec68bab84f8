"""A service that answers which action a video shows: POST /predict over HTTP, and a page for people at /.

    python serve.py run/r2plus1d_18-ucf101-000
    python serve.py --model r3d_18 --weights kinetics400 --port 8080 --max-size 50
    curl -F video=@clip.mp4 http://127.0.0.1:8000/predict

It asks nobody for a password: it listens on this machine only, unless --host says otherwise. docs/serving.md has the
interface, the limits, and what to put in front of it.
"""

import argparse
import socket
from collections.abc import Sequence

from engine.console import count
from engine.errors import UserError, run_cli
from inference import Recognizer, load_recognizer
from serving.options import check_installed, limits_of, parse_args
from serving.service import Service
from serving.uploads import upload_folder


def main(argv: Sequence[str]) -> None:
    args = parse_args(argv)
    check_installed()
    with listen(args.host, args.port) as sock:
        recognizer = load_recognizer(args)
        service = Service(recognizer, limits_of(args), args.decoders, args.queue)
        try:
            with upload_folder() as folder:
                serve(service, about(args, recognizer), folder, sock)
        finally:
            service.close()


def serve(service: Service, about: dict, folder, sock: socket.socket) -> None:
    """Until Ctrl-C or SIGTERM: then what runs is finished, and nothing new taken."""
    import uvicorn

    from serving.app import create_app

    app = create_app(service, about, folder)
    longest = service.limits.timeout + service.limits.upload_timeout
    config = uvicorn.Config(
        app, http="h11", ws="none", log_level="warning", access_log=False, timeout_graceful_shutdown=longest
    )
    host, port = sock.getsockname()[:2]
    address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    print(f"Serving {about['model']}, {count(len(about['classes']), 'class')}, on {address} (Ctrl-C ends)", flush=True)
    uvicorn.Server(config).run(sockets=[sock])


def about(args: argparse.Namespace, recognizer: Recognizer) -> dict:
    """What GET /model says."""
    return {
        "model": args.model or type(recognizer.model).__name__,
        "dataset": None,
        "classes": recognizer.classes,
        "input_spec": recognizer.input_spec.to_dict(),
        "stride": recognizer.stride,
        "batch_size": recognizer.batch_size,
        "device": str(recognizer.device),
    }


def listen(host: str, port: int) -> socket.socket:
    """Before the network is loaded, which may take long: a taken port is said at once."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family)
    except OSError as error:
        raise UserError(f"Cannot listen on {host}, port {port}: {error.strerror}. Choose another --port.") from error


if __name__ == "__main__":
    run_cli(main)
