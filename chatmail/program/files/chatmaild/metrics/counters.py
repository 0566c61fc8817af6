"""The counters of the services, which `chatmail-metrics` shows to Prometheus.

Each process counts in its own file, and goes on with this file after a restart. The unit names the
directory of the files when `metrics_address` is set. Without it, the library is not loaded and
nothing is counted. This module lists all values of each label, so a label can never contain text
from a message or a client.
https://prometheus.github.io/client_python/multiprocess/
"""

import contextlib
import logging
import os
from pathlib import Path
from typing import NamedTuple

DIRECTORY = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
if DIRECTORY:
    # This import is here and not in `start`, because the processes of the filter share the memory
    # that their parent has loaded.
    try:
        import prometheus_client
        from prometheus_client import values
    except ImportError:
        prometheus_client = None

log = logging.getLogger(__name__)

# The size in bytes that the library gives a file: a few hundred numbers. A process has at most 30.
FILE_SIZE = 1 << 16

Labels = tuple[str, ...]
Series = tuple[str, Labels]  # the name of a counter in COUNTERS, and the values of its labels


class Counter(NamedTuple):
    """A number that the services count.

    text: the description. labels: the names of the labels.
    series: for each process that counts this number, the possible values of the labels.
    """

    name: str
    text: str
    labels: Labels
    series: dict[str, list[Labels]]


class OldName(NamedTuple):
    """A metric that the dashboards of existing relays use: sums of our counters.

    series: for each combination of label values, the counters to add up.
    """

    name: str
    text: str
    labels: Labels
    series: dict[Labels, list[Series]]


INCOMING, MXDELIV = "filter-incoming", "filter-mxdeliv"
OUTGOING, BOUNCES = "filter-submission", "filter-sign"

# The reasons of each Refusal in the filter. A test compares this list with the code.
REASONS_OF_BOTH = [
    "Content-Type twice",
    "bad address literal",
    "bare line end",
    "header too large",
    "no single From",
    "too much at once",
    "unencrypted",
]
REASONS = {
    "outgoing": [*REASONS_OF_BOTH, "blocked sender", "forged From", "too much mail"],
    "incoming": [
        *REASONS_OF_BOTH,
        "DKIM key lookup failed",
        "federation",
        "no DKIM signature",
        "no such address",
        "no valid DKIM signature",
    ],
}


LIMITS = [
    "max_load_1m",
    "max_registrations_per_hour",
    "min_available_memory",
    "min_free_disk_space",
    "min_free_inodes",
    "nocreate",
]


def _each(first: str, others: list[str]) -> list[Labels]:
    return [(first, other) for other in others]


# Names without the prefix `chatmail_` are names of existing relays and have the same meaning.
COUNTERS = (
    Counter(
        "chatmail_passed_total",
        "Messages that passed the filter, by direction and kind.",
        ("direction", "kind"),
        {
            OUTGOING: _each("outgoing", ["encrypted", "secure-join"]),
            INCOMING: _each("incoming", ["encrypted", "secure-join", "bounce", "cleartext"]),
            MXDELIV: _each("incoming", ["encrypted", "secure-join", "bounce", "cleartext"]),
        },
    ),
    Counter(
        "chatmail_refused_total",
        "Messages and recipients that the filter refused, by direction and reason.",
        ("direction", "reason"),
        {
            OUTGOING: _each("outgoing", REASONS["outgoing"]),
            INCOMING: _each("incoming", REASONS["incoming"]),
            MXDELIV: _each("incoming", REASONS["incoming"]),
        },
    ),
    Counter(
        "chatmail_filter_failures_total",
        "Messages that have to wait because the filter itself failed; see its journal.",
        (),
        {OUTGOING: [()], INCOMING: [()], MXDELIV: [()], BOUNCES: [()]},
    ),
    Counter(
        "dkim_signed",
        "Messages signed: what users send, and bounces of this relay.",
        (),
        {OUTGOING: [()], BOUNCES: [()]},
    ),
    Counter(
        "chatmail_dkim_verified_total",
        "Messages from elsewhere with a valid signature of the domain in From.",
        (),
        {INCOMING: [()], MXDELIV: [()]},
    ),
    Counter(
        "chatmail_deliveries_total",
        "Messages that another relay took, one for each destination domain, by way (HTTPS, SMTP).",
        ("way",),
        {"transport": [("https",), ("smtp",)]},
    ),
    Counter(
        "chatmail_delivery_failures_total",
        "Tries that delivered nothing, by way and kind of failure; another try may follow.",
        ("way", "kind"),
        {
            "transport": [
                *_each("https", ["answer", "connection", "timeout", "tls"]),
                *_each("smtp", ["answer", "connection", "timeout", "tls", "uncertain"]),
            ]
        },
    ),
    Counter(
        "chatmail_delivery_no_host_total",
        "Deliveries without a try, because DNS names no host that takes mail for the domain.",
        (),
        {"transport": [()]},
    ),
    Counter(
        "chatmail_mxdeliv_total",
        "Messages that other relays sent to /mxdeliv, by result.",
        ("result",),
        {"transport": [("accepted",), ("deferred",), ("refused",)]},
    ),
    Counter(
        "created_ci_accounts",
        "Addresses created whose name begins with ci-, which tests use.",
        (),
        {"accounts": [()]},
    ),
    Counter("created_nonci_accounts", "All other addresses created.", (), {"accounts": [()]}),
    Counter(
        "chatmail_registrations_rejected_total",
        "Logins and requests at /new that got no address, by the limit that was exceeded.",
        ("limit",),
        {"accounts": [(limit,) for limit in LIMITS]},
    ),
    Counter(
        "delivered_mail",
        "Messages stored in mailboxes here, one for each recipient.",
        (),
        {"accounts": [()]},
    ),
    Counter(
        "chatmail_pushes_total",
        "Requests to the notification service: taken, device gone, failed.",
        ("result",),
        {"accounts": [("failed",), ("gone",), ("sent",)]},
    ),
)

# All processes that count. Each has its own file.
PROCESSES = sorted({process for counter in COUNTERS for process in counter.series})


def _passed(direction: str, *kinds: str) -> list[Series]:
    return [("chatmail_passed_total", (direction, kind)) for kind in kinds]


def _refused(direction: str, reason: str) -> Series:
    return ("chatmail_refused_total", (direction, reason))


# The filters of existing relays count a Secure-Join request as encrypted, and count only messages
# whose encryption they checked. These sums do the same.
_ENCRYPTED = {way: _passed(way, "encrypted", "secure-join") for way in REASONS}
_UNENCRYPTED = {
    "outgoing": [_refused("outgoing", "unencrypted")],
    "incoming": [
        *_passed("incoming", "bounce", "cleartext"),
        _refused("incoming", "unencrypted"),
    ],
}


def _old_names_of(direction: str, drops: str) -> list[OldName]:
    encrypted, unencrypted = _ENCRYPTED[direction], _UNENCRYPTED[direction]
    return [
        OldName(
            f"filtered_{direction}_mail_count",
            f"{direction.capitalize()} messages, encrypted or not.",
            (),
            {(): encrypted + unencrypted},
        ),
        OldName(
            f"{direction}_encrypted_mail_count",
            f"{direction.capitalize()} messages, encrypted or a Secure-Join request.",
            (),
            {(): encrypted},
        ),
        OldName(
            f"{direction}_unencrypted_mail_count",
            f"{direction.capitalize()} messages, not encrypted, refused or not.",
            (),
            {(): unencrypted},
        ),
        OldName(
            drops,
            f"{direction.capitalize()} messages refused, by reason.",
            ("reason",),
            {(reason,): [_refused(direction, reason)] for reason in REASONS[direction]},
        ),
    ]


OLD_NAMES = (
    *_old_names_of("outgoing", "filtermail_outbound_drop_total"),
    *_old_names_of("incoming", "filtermail_inbound_drop_total"),
    OldName(
        "filtered_mail_count",
        "Messages in both directions, encrypted or not.",
        (),
        {(): [each for way in REASONS for each in _ENCRYPTED[way] + _UNENCRYPTED[way]]},
    ),
    OldName(
        "encrypted_mail_count",
        "Messages in both directions, encrypted or a Secure-Join request.",
        (),
        {(): [each for way in REASONS for each in _ENCRYPTED[way]]},
    ),
    OldName(
        "unencrypted_mail_count",
        "Messages in both directions, not encrypted, refused or not.",
        (),
        {(): [each for way in REASONS for each in _UNENCRYPTED[way]]},
    ),
    OldName(
        "rejected_unencrypted_mail_count",
        "Messages refused because they are not encrypted, in both directions.",
        (),
        {(): [_refused("outgoing", "unencrypted"), _refused("incoming", "unencrypted")]},
    ),
    OldName(
        "created_accounts",
        "Addresses created.",
        (),
        {(): [("created_ci_accounts", ()), ("created_nonci_accounts", ())]},
    ),
)

_counting: dict[Series, "prometheus_client.Counter"] = {}


def file_name(process: str) -> str:
    """Return the library's name for the file of a process."""
    return f"counter_{process}.db"


def start(process: str) -> None:
    """Begin to count, if the unit names a directory. Numbers in an existing file are kept.

    process: the name of this process in PROCESSES.
    """
    _counting.clear()
    if not DIRECTORY:
        return
    path = Path(DIRECTORY) / file_name(process)
    try:
        if prometheus_client is None:
            raise ImportError("python3-prometheus-client is not installed")
        _make_room(path)
        # The file has the name of the process, not its id, so a restart makes no further file.
        values.ValueClass = values.MultiProcessValue(lambda: process)
        found = dict(_make_counters(process))
    except Exception as error:
        # The memory is full, or the file is broken. The service runs without counting, and the next
        # start tries again.
        log.error("nothing is counted, %s: %s", path, str(error) or type(error).__name__)
        with contextlib.suppress(OSError):
            path.unlink()
    else:
        _counting.update(found)


def _make_room(path: Path) -> None:
    """Reserve memory for the whole file, and make it readable. Raises OSError.

    The process maps the file. Without memory for one of its pages, SIGBUS would end the process.
    """
    # Some units have a strict umask, but the endpoint must be able to read these numbers.
    path.parent.chmod(0o755)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        os.fchmod(descriptor, 0o644)
        os.posix_fallocate(descriptor, 0, FILE_SIZE)
    finally:
        os.close(descriptor)


def _make_counters(process):
    for name, text, labels, series in COUNTERS:
        if process in series:
            counter = prometheus_client.Counter(name, text, labels, registry=None)
            for each in series[process]:
                # This makes the counter exist with the value 0.
                yield (name, each), counter.labels(*each) if labels else counter


def count(name: str, *labels: str) -> None:
    """Add one to a counter of COUNTERS. A failure is logged and not raised."""
    if _counting:
        try:
            _counting[name, labels].inc()
        except Exception as error:
            log.error("not counted: %s: %s", name, type(error).__name__)
