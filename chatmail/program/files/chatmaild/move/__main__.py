"""What the key of a move may run on the old machine: rsync, which sends the relay's files.

sshd starts it in the place of the command that the client asked for (sshd(8), command=).
"""

import os
import sys

from chatmaild.common.errors import OperatorError
from chatmaild.common.settings import load_settings
from chatmaild.inventory import places
from chatmaild.move import sending

if __name__ == "__main__":
    asked = os.environ.get("SSH_ORIGINAL_COMMAND", "")
    try:
        command = sending.allowed_command(asked, places.list_paths(load_settings(), last=True))
    except (OperatorError, ValueError) as error:
        sys.exit(str(error))
    os.execvp(command[0], command)
