import pytest

from common.errors import UserError
from engine.runs.folder import create_run_dir


def test_run_folders_count_as_numbers(tmp_path):
    """Trap 19: sorted as text, run 2 comes after run 10."""
    for name in ("m-d-002", "m-d-010", "m-d-1000", "m-d-x", "other-d-5000"):
        (tmp_path / name).mkdir()
    assert create_run_dir(tmp_path, "m-d").name == "m-d-1001"
    assert create_run_dir(tmp_path, "n-d").name == "n-d-000"
    assert create_run_dir(tmp_path, "n-d").name == "n-d-001"


def test_a_name_that_is_taken_is_refused(tmp_path):
    assert create_run_dir(tmp_path, "m-d", "mine").name == "mine"
    with pytest.raises(UserError, match="exists already. Choose another --name.$"):
        create_run_dir(tmp_path, "m-d", "mine")
    (tmp_path / "mine" / "last.pth").touch()
    with pytest.raises(UserError, match="exists already.*--resume mine"):
        create_run_dir(tmp_path, "m-d", "mine")
