"""What the tests of the DNS module and states share."""

import pytest
from support import own_modules


@pytest.fixture
def own(tmp_path):
    own = own_modules.load(tmp_path, own_modules.settings(tmp_path))
    own.selectors = own_modules.make_keys(own)
    return own
