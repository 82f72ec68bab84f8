"""A service that answers which action a video shows: POST /predict over HTTP, and a page for people at /.

    python serve.py run/r2plus1d_18-ucf101-000
    python serve.py r2plus1d.onnx --queue 8
    python serve.py --model r3d_18 --weights kinetics400 --port 8080 --max-size 50
    curl -F video=@clip.mp4 http://127.0.0.1:8000/predict

It asks nobody for a password: it listens on this machine only, unless --host says otherwise. docs/serving.md has the
interface, the limits, and what to put in front of it.
"""

import os
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from common.cli import run_cli
from common.console import plural
from common.errors import UserError
from engine.export.check import random_clips
from engine.serving.options import check_installed, limits_of, parse_args
from engine.serving.service import Service
from engine.serving.uploads import upload_folder
from inference import Recognizer, load_recognizer

if TYPE_CHECKING:  # needed here only, and imported at use
    import uvicorn


def main(argv: Sequence[str]) -> None:
    args = parse_args(argv)
    check_installed()
    with listen(args.host, args.port) as sock:
        recognizer = load_recognizer(args)
        warm_up(recognizer)
        service = Service(recognizer, limits_of(args), args.decoders, args.queue)
        try:
            with upload_folder() as folder:
                server = web_server(service, about(recognizer), folder)
                what = f"{recognizer.name} ({plural(len(recognizer.classes), 'class')})"
                open_to_clients(sock, server.config.backlog)  # who reads the next line may connect at once
                print(f"Serving {what} on {address(sock)}; Ctrl-C ends.", flush=True)
                server.run(sockets=[sock])
        finally:
            service.close()


def warm_up(recognizer: Recognizer) -> None:
    """One full batch, before anybody asks: too little memory or damaged weights end the program instead of the first
    request, and what takes long only once (kernels, the choice between bf16 and float32) keeps no client waiting."""
    width, height = recognizer.input_spec.cut_size
    clips = random_clips(recognizer.input_spec, recognizer.batch_size)
    recognizer.probabilities(np.ascontiguousarray(clips[:, :, :height, :width]))


def web_server(service: Service, about: dict, folder: Path) -> "uvicorn.Server":
    """Runs until Ctrl-C or SIGTERM: then what is there is finished, and nothing new taken."""
    import uvicorn

    from engine.serving.app import create_app
    from engine.serving.connection import BACKLOG, connection_for, most_connections

    longest = service.limits.timeout + service.limits.upload_timeout
    most = most_connections(service.num_decoders + service.max_waiting, service.num_decoders)
    return uvicorn.Server(
        uvicorn.Config(
            create_app(service, about, folder),
            http=connection_for(service.limits.upload_timeout, most),
            backlog=BACKLOG,
            ws="none",
            lifespan="off",
            log_level="warning",
            access_log=False,
            timeout_graceful_shutdown=round(longest),
        )
    )


def about(recognizer: Recognizer) -> dict:
    """What GET /model says."""
    return {
        "model": recognizer.name,
        "dataset": Path(recognizer.dataset).name if recognizer.dataset else None,  # not where it lies
        "classes": recognizer.classes,
        "input_spec": recognizer.input_spec.to_dict(),
        "stride": recognizer.stride,
        "batch_size": recognizer.batch_size,
        "device": str(recognizer.device),
    }


def listen(host: str, port: int) -> socket.socket:
    """The address is taken before the network is loaded, which may take long: a port in use is said at once."""
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        sock = socket.socket(family, kind, protocol)
        if os.name == "posix":  # elsewhere it would mean that two may have the same port
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(place)
    except (OSError, UnicodeError) as error:  # UnicodeError: the host is no name that there could be
        raise cannot_listen(host, port, error) from error
    return sock


def open_to_clients(sock: socket.socket, backlog: int) -> None:
    """Two servers may have taken the same address; the first one that listens has it."""
    try:
        sock.listen(backlog)
    except OSError as error:
        raise cannot_listen(*sock.getsockname()[:2], error) from error


def cannot_listen(host: str, port: int, error: OSError | UnicodeError) -> UserError:
    why = error.strerror if isinstance(error, OSError) else "no such name"
    return UserError(f"Cannot listen on {host}, port {port}: {why}. Choose another --port, or --host.")


def address(sock: socket.socket) -> str:
    host, port = sock.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


if __name__ == "__main__":
    run_cli(main)
