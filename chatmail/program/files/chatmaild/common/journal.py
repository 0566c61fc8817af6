"""The log of a service, as journald reads it."""

import logging
import sys


def start_logging(level: int = logging.INFO) -> None:
    """Log to standard error with the priority prefixes of journald (sd-daemon(3)).

    level: the least severe level that is logged, a constant of `logging`.
    """
    priorities = {"DEBUG": 7, "INFO": 6, "WARNING": 4, "ERROR": 3, "CRITICAL": 2}

    class JournalFormatter(logging.Formatter):
        def format(self, record):
            # A newline would start a second journal entry, which would have no priority.
            message = super().format(record).replace("\n", " | ")
            return f"<{priorities[record.levelname]}>{message}"

    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JournalFormatter("%(message)s"))
    logging.basicConfig(level=level, handlers=[handler], force=True)
