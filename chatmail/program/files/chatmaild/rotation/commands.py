"""The commands of the Salt module chatmail_dkim about the keys and their records in DNS."""

from chatmaild.common.commands import answer
from chatmaild.rotation import rotating

COMMANDS = {
    "plan": rotating.plan,
    "rotate": rotating.rotate,
    "withdraw": rotating.withdraw,
    "verify": rotating.verify,
}

if __name__ == "__main__":
    answer(COMMANDS)
