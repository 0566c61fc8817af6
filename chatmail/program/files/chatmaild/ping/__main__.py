"""Remove the address of a run of ping whose master did not do so. argv: the token."""

import sys

from chatmaild.common.settings import load_settings
from chatmaild.ping import mailbox

mailbox.close(load_settings(), sys.argv[1])
