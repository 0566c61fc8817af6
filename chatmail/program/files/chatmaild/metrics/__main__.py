"""The metrics service: answers Prometheus at `metrics_address`."""

import logging
import signal
import sys
import threading

from prometheus_client import CollectorRegistry

from chatmaild.common.journal import start_logging
from chatmaild.common.settings import load_settings
from chatmaild.common.systemd import notify
from chatmaild.metrics import endpoint

log = logging.getLogger(__name__)


def main() -> int:
    """Serve until SIGTERM or SIGINT; return the exit status."""
    start_logging()
    signals = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    address = load_settings()["metrics_address"]
    registry = CollectorRegistry()
    registry.register(endpoint.Parts())
    try:
        listening = endpoint.server(address, registry)
    except OSError as error:
        log.critical("cannot listen at metrics_address %s: %s", address, error)
        return 1
    threading.Thread(target=listening.serve_forever, daemon=True).start()
    notify("READY=1")
    signal.sigwait(signals)
    notify("STOPPING=1")
    return 0


if __name__ == "__main__":
    sys.exit(main())
