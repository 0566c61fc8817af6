"""Runs the filter with TXT records from a JSON file: {name: [text, …] or null for a time-out}.

While the value of a name is "WAIT", a look-up of this name waits. During that time there is a file
`waiting-<thread>` beside the JSON file for each such look-up.
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
            with contextlib.suppress(ValueError):  # a test is writing the file
                records = json.loads(Path(zone).read_text()).get(name, [])
        waiting.unlink()
    if records is None:
        raise verifying.LookupFailed("time-out")
    return [record.encode() for record in records]


if __name__ == "__main__":
    zone, *arguments = sys.argv[1:]
    verifying.resolver_lookup = lambda: lookup
    sys.exit(service.main(arguments))
