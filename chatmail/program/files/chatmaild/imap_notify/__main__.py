"""The program of chatmail-imap-notify.service and of the converge: makes and checks the object."""

import sys

from chatmaild.common.errors import OperatorError
from chatmaild.imap_notify.building import build


def main() -> int:
    """Build the object; return the exit status."""
    try:
        build()
    except (OSError, OperatorError) as error:
        print(
            f"imap_notify: {error}. Until then, a connected client hears of a new message after "
            "half a second, as stock Dovecot does it.",
            file=sys.stderr,
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
