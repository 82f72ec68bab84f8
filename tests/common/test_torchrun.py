import pytest

from common import torchrun
from common.errors import UsageError

LAUNCHED = {"RANK": "1", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"} | {
    "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": "29500",
}


@pytest.mark.parametrize("missing", [None, *torchrun.LAUNCH])
def test_half_a_launch_is_none(missing, monkeypatch):
    """Clouds and job scripts set some of the variables; then one process works alone, or says what is missing."""
    for name, value in LAUNCHED.items():
        if name == missing:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)
    numbers = (torchrun.rank(), torchrun.world_size(), torchrun.local_rank(), torchrun.local_world_size())
    assert numbers == ((1, 4, 1, 2) if missing is None else (0, 1, 0, 1))
    if missing in (None, "WORLD_SIZE"):
        torchrun.check_launch()
    else:
        with pytest.raises(UsageError, match=f"WORLD_SIZE is 4, but {missing} is not set. Start several processes"):
            torchrun.check_launch()
