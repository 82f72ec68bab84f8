"""The service's answers, for its OpenAPI document: the keys of Prediction.to_dict, and of /model and /health."""

from pydantic import BaseModel, Field


class Likely(BaseModel):
    label: str
    probability: float


class Segment(BaseModel):
    """The label from one frame to another. Seconds are null where the video does not say its frame rate."""

    start: float | None
    end: float | None
    first_frame: int
    last_frame: int
    label: str
    probability: float


class WindowAnswer(Segment):
    top: list[Likely]


class Picture(BaseModel):
    """A frame, with the second at which it is shown."""

    frame: int
    start: float | None
    jpeg: str = Field(description="base64")


class Answer(BaseModel):
    """The answer on one video, as `inference.py --json` writes it; with pictures where they were asked for."""

    video: str = Field(description="the file name sent by the client, shortened")
    fps: float | None
    num_frames: int
    num_damaged: int = Field(description="places that could not be decoded")
    lost: str | None = Field(description="why the video ends before the length in its header; null where it is whole")
    seconds: float | None
    classes: list[str]
    label: str = Field(description="'uncertain' where no class reaches the threshold")
    top: list[Likely] = Field(description="for the whole video, the mean over its windows")
    timeline: list[Segment] = Field(description="without gaps, from the first frame to the last")
    windows: list[WindowAnswer]
    pictures: list[Picture] | None = Field(None, description="evenly spaced, from the first frame on; only on request")


class Spec(BaseModel):
    clip_len: int
    frame_stride: int
    fps: float | None
    resize: tuple[int, int]
    crop_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    input: str
    keep_aspect: bool


class RequestLimits(BaseModel):
    max_bytes: int
    max_seconds: float
    max_pixels: int
    timeout: float
    upload_timeout: float
    queue: int


class ModelInfo(BaseModel):
    model: str
    dataset: str | None
    classes: list[str]
    input_spec: Spec
    stride: int = Field(description="frames between windows, unless the request has a stride")
    batch_size: int
    device: str
    limits: RequestLimits


class Health(BaseModel):
    status: str = Field(description="ok, or failing: the network or the decoders fail; restart the service")
    there: int = Field(description="requests that are being uploaded, waiting or running")
    working: int = Field(description="of these, running")
    waiting: int = Field(description="of these, not running yet")
    queue: int = Field(description="how many may wait; further ones get status 503")
    decoders: int
    answered: int
    refused: int
    failed: int


class Problem(BaseModel):
    detail: str
