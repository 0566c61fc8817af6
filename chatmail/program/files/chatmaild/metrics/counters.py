"""What the services count, for `chatmail-metrics` to tell Prometheus: all names, and the counting.

Each process adds to numbers in a file of its own, in the directory that its unit names where
`metrics_address` is set, and goes on in it after a restart. Elsewhere nothing is loaded or counted.
Every label's values are listed here, so that none can hold what a message or a client brings.
https://prometheus.github.io/client_python/multiprocess/
"""

import contextlib
import logging
import os
from pathlib import Path
from typing import NamedTuple

DIRECTORY = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
if DIRECTORY:
    # Here, not where it is used: the filter's three processes share what their parent loaded.
    try:
        import prometheus_client
        from prometheus_client import values
    except ImportError:
        prometheus_client = None

log = logging.getLogger(__name__)

# What the library makes a file's size, for a few hundred numbers; a process has 30 at most.
FILE_SIZE = 1 << 16

Labels = tuple[str, ...]
Series = tuple[str, Labels]  # a name of COUNTERS and the values of its labels


class Counter(NamedTuple):
    """A number that the services count.

    labels: their names. series: what values these can have, by the process that counts them.
    """

    name: str
    text: str
    labels: Labels
    series: dict[str, list[Labels]]


class OldName(NamedTuple):
    """What the dashboards of existing relays know by another name: sums of what we count.

    series: by values of its labels, what to sum up.
    """

    name: str
    text: str
    labels: Labels
    series: dict[Labels, list[Series]]


INCOMING, MXDELIV = "filter-incoming", "filter-mxdeliv"
OUTGOING, BOUNCES = "filter-submission", "filter-sign"

# Of rules.Refusal; a test looks for others.
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


# Names without the prefix `chatmail_` are those of existing relays, with the same meaning.
COUNTERS = (
    Counter(
        "chatmail_passed_total",
        "Messages that passed the filter, by direction and by what they are.",
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
        "Messages that have to wait because the filter itself failed; its journal tells where.",
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
        "Messages that another relay took, one for each destination domain, by the way.",
        ("way",),
        {"transport": [("https",), ("smtp",)]},
    ),
    Counter(
        "chatmail_delivery_failures_total",
        "Tries that delivered nothing, by the way and by what went wrong; another may follow.",
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
        "Deliveries not tried, because DNS names no host that takes mail for the domain.",
        (),
        {"transport": [()]},
    ),
    Counter(
        "chatmail_mxdeliv_total",
        "Messages that other relays brought to /mxdeliv, by what became of them.",
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
        {"metadata": [()]},
    ),
    Counter(
        "chatmail_pushes_total",
        "Requests to the notification service: taken, device gone, failed.",
        ("result",),
        {"metadata": [("failed",), ("gone",), ("sent",)]},
    ),
)

# Every process that counts, each with a file of its own.
PROCESSES = sorted({process for counter in COUNTERS for process in counter.series})


def _passed(direction: str, *kinds: str) -> list[Series]:
    return [("chatmail_passed_total", (direction, kind)) for kind in kinds]


def _refused(direction: str, reason: str) -> Series:
    return ("chatmail_refused_total", (direction, reason))


# As their filter does, these count a Secure-Join request as encrypted, and only messages that came
# as far as to be judged.
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
    """Return how the library calls a process's file."""
    return f"counter_{process}.db"


def start(process: str) -> None:
    """Count as this one of PROCESSES, from where its file ended, if the unit asks for it."""
    _counting.clear()
    if not DIRECTORY:
        return
    path = Path(DIRECTORY) / file_name(process)
    try:
        if prometheus_client is None:
            raise ImportError("python3-prometheus-client is not installed")
        _make_room(path)
        # By name and not by process id: one file each, however often a service starts.
        values.ValueClass = values.MultiProcessValue(lambda: process)
        found = dict(_counters(process))
    except Exception as error:
        # Full memory, or a file that is broken: mail goes on, uncounted. The next start tries anew.
        log.error("nothing is counted, %s: %s", path, str(error) or type(error).__name__)
        with contextlib.suppress(OSError):
            path.unlink()
    else:
        _counting.update(found)


def _make_room(path: Path) -> None:
    """Have the whole file in memory and readable. Raises OSError.

    It is mapped: were there no memory for a page of it later, the process would die of SIGBUS.
    """
    # Some units hide what they make; these are numbers, for the endpoint to read.
    path.parent.chmod(0o755)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        os.fchmod(descriptor, 0o644)
        os.posix_fallocate(descriptor, 0, FILE_SIZE)
    finally:
        os.close(descriptor)


def _counters(process):
    for name, text, labels, series in COUNTERS:
        if process in series:
            counter = prometheus_client.Counter(name, text, labels, registry=None)
            for each in series[process]:
                # Those that count nothing yet are there too, as 0.
                yield (name, each), counter.labels(*each) if labels else counter


def count(name: str, *labels: str) -> None:
    """Add one to a counter of COUNTERS. Nothing that fails here is passed on."""
    if _counting:
        try:
            _counting[name, labels].inc()
        except Exception as error:
            log.error("not counted: %s: %s", name, type(error).__name__)
