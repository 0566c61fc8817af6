"""The endpoint for Prometheus at `metrics_address`.

It collects the counters of the services (`counters.py`), the numbers in the files of retention, and
Dovecot's own metrics. Each request reads all of them again. A part that fails is left out, and
`chatmail_metrics_up` is 0 for it.
"""

import logging
import socket
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from socketserver import ThreadingMixIn
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, Metric, make_wsgi_app
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.parser import text_string_to_metric_families

from chatmaild.metrics import counters

COUNTED = Path("/run/chatmail-metrics")  # It has a directory for each service.
RETENTION = Path("/var/lib/chatmail-retention")
# The files of retention. The first run of each command makes its file.
RETENTION_FILES = ("expire", "report")
DOVECOT = Path("/run/dovecot/http")
DOVECOT_SECONDS = 2
# Bytes of Dovecot's answer. On a busy relay the answer has 20 KB.
MAX_ANSWER = 4 << 20
# Seconds that a client may send nothing, or read nothing of the answer.
CLIENT_SECONDS = 10

log = logging.getLogger(__name__)

Numbers = dict[tuple[str, frozenset], float]


class Parts:
    """The collector of all metrics. Tests replace the three paths."""

    def __init__(self, counted: Path = COUNTED, retention: Path = RETENTION, dovecot=DOVECOT):
        self._counted, self._retention, self._dovecot = counted, retention, dovecot
        self._down: set[str] = set()

    def collect(self) -> Iterator[Metric]:
        """Yield all metrics. Each request calls this in its own thread."""
        up = Metric("chatmail_metrics_up", "Whether a part's metrics are here.", "gauge")
        numbers: Numbers = {}
        for process in counters.PROCESSES:
            for found in self._ask(up, process, read_counted, self._counted, process):
                numbers.update({key: numbers.get(key, 0) + found[key] for key in found})
        yield from counted_families(numbers)
        for name in RETENTION_FILES:
            path = self._retention / f"{name}.prom"
            if path.exists():
                yield from self._ask(up, f"retention-{name}", read_retention, path)
        yield from self._ask(up, "dovecot", read_dovecot, self._dovecot)
        yield up

    def _ask(self, up, part, read, *arguments):
        """Return the metrics of a part, none when it fails. Note in `up` whether it failed."""
        try:
            found = list(read(*arguments))
        except Exception as error:
            found = []
            if part not in self._down:
                log.warning("no metrics of %s: %s", part, str(error) or type(error).__name__)
                self._down.add(part)
            up.add_sample(up.name, {"part": part}, 0)
        else:
            self._down.discard(part)
            up.add_sample(up.name, {"part": part}, 1)
        return found


# The counters of the services


def read_counted(directory: Path, process: str) -> Iterator[Numbers]:
    """Yield the numbers of one process. Raises any exception for a broken or missing file."""
    path = directory / process.partition("-")[0] / counters.file_name(process)
    found = {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for metric in MultiProcessCollector.merge([str(path)])
        for sample in metric.samples
    }
    if not found:
        raise ValueError(f"no numbers in {path}")
    yield found


def counted_families(numbers: Numbers) -> Iterator[Metric]:
    """Yield the metrics of counters.py for which there are numbers."""
    known: dict[counters.Series, float] = {}
    for name, _, labels, by_process in counters.COUNTERS:
        stored = f"{name.removesuffix('_total')}_total"
        for values in {each for series in by_process.values() for each in series}:
            key = stored, frozenset(zip(labels, values, strict=True))
            if key in numbers:
                known[name, values] = numbers[key]
    for name, text, labels, _ in counters.COUNTERS:
        found = {values: number for (of, values), number in known.items() if of == name}
        yield from _make_family(name, text, labels, found)
    for name, text, labels, sums in counters.OLD_NAMES:
        found = {
            values: sum(known.get(each, 0) for each in series)
            for values, series in sums.items()
            if any(each in known for each in series)
        }
        yield from _make_family(name, text, labels, found)


def _make_family(name, text, labels, found) -> Iterable[Metric]:
    if not found:
        return
    # The library adds the ending _total to the name of every counter, but the old names lack it.
    kind = "counter" if name.endswith("_total") else "unknown"
    family = Metric(name.removesuffix("_total"), text, kind)
    for values, number in sorted(found.items()):
        family.add_sample(name, dict(zip(labels, values, strict=True)), number)
    yield family


# Retention


def read_retention(path: Path) -> Iterator[Metric]:
    """Yield the metrics in a file of retention. Raises any exception for a broken file."""
    yield from text_string_to_metric_families(path.read_text())


# Dovecot


def read_dovecot(path: Path) -> Iterator[Metric]:
    """Yield Dovecot's metrics. Raises OSError or ValueError.

    Dovecot's answer is not exactly OpenMetrics: a metric with labels also has a `_count` and a
    `_sum`, as a histogram has. These are sums of the other numbers, so they are left out.
    """
    families: dict[str, Metric] = {}
    texts = {}
    for family in text_string_to_metric_families(_ask_dovecot(path)):
        name = family.name
        if family.type == "histogram" and family.samples:
            yield family
        elif not family.samples:
            texts[name] = family.documentation
        elif name.startswith("dovecot_") and name.endswith("_total"):
            base = name.removesuffix("_total")
            known = families.setdefault(base, Metric(base, texts.get(base, ""), "counter"))
            known.samples += family.samples
        elif name == "dovecot_build_info":
            version = Metric(name, "Dovecot's version.", "gauge")
            version.samples = family.samples
            yield version
    yield from families.values()


def _ask_dovecot(path: Path) -> str:
    """Return Dovecot's answer within DOVECOT_SECONDS. Raises OSError or ValueError."""
    deadline = time.monotonic() + DOVECOT_SECONDS
    answer = bytearray()
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(DOVECOT_SECONDS)
        connection.connect(str(path))
        connection.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
        while chunk := connection.recv(1 << 16):
            answer += chunk
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError(f"not answered within {DOVECOT_SECONDS} s")
            if len(answer) > MAX_ANSWER:
                raise ValueError(f"an answer of more than {MAX_ANSWER} bytes")
            connection.settimeout(left)
    head, _, body = bytes(answer).partition(b"\r\n\r\n")
    if head.split(b" ")[1:2] != [b"200"]:
        raise ValueError("an answer that is not 200")
    return body.decode()


# The library's own server waits for clients for ever, and logs the address of a client that leaves.


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True

    def handle_error(self, request, client_address):
        """Log nothing when a client left or was too slow."""


class _Handler(WSGIRequestHandler):
    timeout = CLIENT_SECONDS

    def log_message(self, format, *args):
        """Log no requests."""


def server(address: str, registry: CollectorRegistry) -> WSGIServer:
    """Return a server that listens at `host:port`, the form of the setting. Raises OSError."""
    host, _, port = address.rpartition(":")
    found = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)
    _Server.address_family = found[0][0]
    return make_server(found[0][4][0], int(port), make_wsgi_app(registry), _Server, _Handler)
