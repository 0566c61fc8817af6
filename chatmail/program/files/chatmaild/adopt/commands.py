"""The commands of the Salt module chatmail_adopt."""

from chatmaild.adopt import planning, taking, undoing
from chatmaild.common.commands import answer

COMMANDS = {
    "plan": planning.plan,
    "start": taking.start,
    "check_undo": undoing.check,
    "undo": undoing.undo,
}

if __name__ == "__main__":
    answer(COMMANDS)
