"""The table of --csv: a row for each video, with its answer or the reason for none."""

import csv
from pathlib import Path

from common.errors import UserError
from common.files import printable, put_in_place, temporary_name
from engine.inference.prediction import Prediction


class AnswerTable:
    """Writes rows into a file that appears whole with close(). Until then they are under a temporary name, where an
    interruption leaves them. Raises UserError where the file cannot be written."""

    def __init__(self, path: Path, top: int, threshold: float):
        self.path, self.temporary = path, temporary_name(path)
        self.top, self.threshold = top, threshold
        ranks = [f"{what}_{rank}" for rank in range(2, top + 1) for what in ("label", "probability")]
        header = ["video", "label", "probability", *ranks, "num_frames", "fps", "num_damaged", "problem"]
        try:
            self.file = self.temporary.open("w", newline="", encoding="utf-8", errors="backslashreplace")
        except OSError as error:
            raise self._unwritable(error) from error
        self.writer = csv.DictWriter(self.file, header, restval="")
        self._write(dict(zip(header, header, strict=True)))

    def add(self, prediction: Prediction) -> None:
        (label, probability), *others = prediction.top(self.top)
        row = {
            "video": printable(prediction.video),
            "label": prediction.label(self.threshold),
            "probability": probability,
        }
        for rank, (label, probability) in enumerate(others, 2):
            row |= {f"label_{rank}": label, f"probability_{rank}": probability}
        facts = {name: getattr(prediction, name) for name in ("num_frames", "fps", "num_damaged")}
        self._write(row | facts | {"problem": prediction.lost or ""})

    def refuse(self, video: Path, error: UserError) -> None:
        self._write({"video": printable(video), "problem": str(error)})

    def close(self) -> None:
        try:
            self.file.close()
            put_in_place(self.temporary, self.path)
        except OSError as error:
            raise self._unwritable(error) from error

    def _write(self, row: dict) -> None:
        try:
            self.writer.writerow(row)
            self.file.flush()
        except OSError as error:
            raise self._unwritable(error) from error

    def _unwritable(self, error: OSError) -> UserError:
        return UserError(f"{printable(self.path)} cannot be written: {error.strerror}.")
