"""Runs the filter with TXT records from a JSON file: {name: [text, …] or null for a time-out}.

A name whose records are "WAIT" is answered when it has others; meanwhile there is a file
waiting-<thread> for each look-up, beside the JSON file.
"""

import contextlib
import json
import sys
import threading
import time
from pathlib import Path

from chatmaild.dkim import verifying
from chatmaild.filter import __main__ as service


def lookup(name: str, seconds: float) -> list[bytes]:
    records = json.loads(Path(zone).read_text()).get(name, [])
    if records == "WAIT":
        waiting = Path(zone).with_name(f"waiting-{threading.get_ident()}")
        waiting.touch()
        while records == "WAIT":
            time.sleep(0.02)
            with contextlib.suppress(ValueError):  # being written
                records = json.loads(Path(zone).read_text()).get(name, [])
        waiting.unlink()
    if records is None:
        raise verifying.LookupFailed("time-out")
    return [record.encode() for record in records]


if __name__ == "__main__":
    zone, *arguments = sys.argv[1:]
    verifying.resolver_lookup = lambda: lookup
    sys.exit(service.main(arguments))
