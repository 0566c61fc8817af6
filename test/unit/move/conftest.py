import shutil

import pytest
from support import two_machines


@pytest.fixture
def machines(tmp_path, monkeypatch):
    """The directory of the old machine's mail, and where the new machine has it."""
    if not shutil.which("rsync"):
        pytest.skip("needs rsync")
    return two_machines.make(tmp_path, monkeypatch)
