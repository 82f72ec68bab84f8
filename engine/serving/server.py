"""The web server of serve.py: its address, the network's first batch, and uvicorn with the app."""

import os
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from common.console import plural
from common.errors import UserError
from engine.export.check import random_clips
from engine.inference.recognizer import Recognizer
from engine.serving.limits import Limits
from engine.serving.service import Service
from engine.serving.uploads import upload_folder

if TYPE_CHECKING:  # imported at use, since it is an optional extra
    import uvicorn


def serve(
    sock: socket.socket,
    recognizer: Recognizer,
    limits: Limits,
    num_decoders: int,
    max_waiting: int,
    origins: Sequence[str] = (),
) -> None:
    """Answers requests at an address from listen(), until Ctrl-C or SIGTERM. origins: see create_app."""
    warm_up(recognizer)
    service = Service(recognizer, limits, num_decoders, max_waiting)
    try:
        with upload_folder() as folder:
            server = web_server(service, about(recognizer), folder, origins)
            network = f"{recognizer.name} ({plural(len(recognizer.classes), 'class')})"
            open_to_clients(sock, server.config.backlog)  # who reads the next line may connect at once
            print(f"Serving {network} on {address(sock)}; Ctrl-C ends.", flush=True)
            server.run(sockets=[sock])
    finally:
        service.close()


def warm_up(recognizer: Recognizer) -> None:
    """Computes one full batch before the first request: too little memory or damaged weights end the program at once,
    and work that is done once (kernels, the choice between bf16 and float32) keeps no client waiting."""
    width, height = recognizer.input_spec.cut_size
    clips = random_clips(recognizer.input_spec, recognizer.batch_size)
    recognizer.probabilities(np.ascontiguousarray(clips[:, :, :height, :width]))


def web_server(service: Service, about: dict, folder: Path, origins: Sequence[str] = ()) -> "uvicorn.Server":
    """A server that runs until Ctrl-C or SIGTERM, and then finishes the requests it has taken."""
    import uvicorn

    from engine.serving.app import create_app
    from engine.serving.connection import BACKLOG, connection_for, most_connections

    longest = service.limits.timeout + service.limits.upload_timeout
    most = most_connections(service.num_decoders + service.max_waiting, service.num_decoders)
    return uvicorn.Server(
        uvicorn.Config(
            create_app(service, about, folder, origins),
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
    """The answer of GET /model."""
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
    """Takes the address. This comes before the network is loaded, so that a port in use fails at once."""
    try:
        family, kind, protocol, _, target = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        sock = socket.socket(family, kind, protocol)
        if os.name == "posix":  # elsewhere it would mean that two may have the same port
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(target)
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
    reason = error.strerror if isinstance(error, OSError) else "no such name"
    return UserError(f"Cannot listen on {host}, port {port}: {reason}. Choose another --port, or --host.")


def address(sock: socket.socket) -> str:
    host, port = sock.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def check_installed() -> None:
    """Raises UserError where a package of the service is missing."""
    try:
        import fastapi  # noqa: F401
        import python_multipart  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"serve.py needs {error.name}, which is not installed: pip install fastapi uvicorn python-multipart"
        ) from error
