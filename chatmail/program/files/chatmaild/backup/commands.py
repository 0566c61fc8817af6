"""The commands of the Salt module chatmail_backup. The process runs as root."""

from chatmaild.backup import creating, restoring
from chatmaild.common.commands import answer

COMMANDS = {
    "create": creating.create,
    "verify": creating.verify,
    "restore": restoring.restore,
}

if __name__ == "__main__":
    answer(COMMANDS)
