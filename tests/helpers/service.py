"""A service that runs for a test: the real server, decoders and network, in a thread of this process."""

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import uvicorn

from engine.serving.limits import Limits
from engine.serving.server import address, listen, web_server
from engine.serving.service import Network, Service
from engine.serving.uploads import upload_folder
from inference import Recognizer

LIMITS = Limits(max_bytes=300_000, max_seconds=8, max_pixels=200 * 150, max_named=1000)


@dataclass(frozen=True)
class Running:
    service: Service
    client: httpx.Client
    address: str
    folder: Path  # of the uploads
    web: uvicorn.Server

    def send(self, video: Path | bytes, name: str = "clip.mp4", **parameters) -> httpx.Response:
        content = video if isinstance(video, bytes) else video.read_bytes()
        return self.client.post("/predict", files={"video": (name, content)}, params=parameters)


@contextmanager
def running(
    network: Network, limits: Limits | None = None, decoders: int = 1, waiting: int = 8, origins: Sequence[str] = ()
) -> Iterator[Running]:
    """The service of a network, on a free port of this machine, until the end of the with statement."""
    about = {
        "model": "r3d_10",
        "dataset": None,
        "classes": network.classes,
        "input_spec": network.input_spec.to_dict(),
        "stride": network.stride,
        "batch_size": network.batch_size,
        "device": "cpu",
    }
    service = Service(network, limits or Limits(), decoders, waiting)
    with listen("127.0.0.1", 0) as sock, upload_folder() as folder:
        server = web_server(service, about, folder, origins)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]})
        thread.start()
        try:
            with httpx.Client(base_url=address(sock), timeout=60) as client:
                yield Running(service, client, address(sock), folder, server)
        finally:
            server.should_exit = True
            thread.join()
            service.close()


class Gate:
    """A network that answers when it is let."""

    def __init__(self, recognizer: Recognizer):
        self.recognizer, self.open = recognizer, threading.Event()
        self.classes, self.input_spec = recognizer.classes, recognizer.input_spec
        self.stride, self.batch_size = recognizer.stride, recognizer.batch_size
        self.asked = threading.Event()

    def probabilities(self, clips: np.ndarray) -> np.ndarray:
        self.asked.set()
        assert self.open.wait(60)
        return self.recognizer.probabilities(clips)


def wait_until(condition) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)
