"""The program of chatmail-dovecot-objects.service and of the converge: makes the objects."""

import sys

from chatmaild.common.errors import OperatorError
from chatmaild.dovecot_objects.building import build


def main() -> int:
    """Build the objects; return the exit status."""
    try:
        build()
    except (OSError, OperatorError) as error:
        print(f"dovecot_objects: {error}.", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
