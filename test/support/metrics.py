"""Lets services count, and reads the numbers as the endpoint shows them."""

import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as strictly
from prometheus_client.parser import text_string_to_metric_families

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "chatmail/program/files/chatmaild"


# What Dovecot 2.3.19 and 2.4.1 send after a login, a failed login, and a client in IDLE.
FROM_DOVECOT = """\
# HELP process_start_time_seconds Timestamp of service start
# TYPE process_start_time_seconds gauge
process_start_time_seconds 1795561661
# HELP dovecot_build Dovecot build information
# TYPE dovecot_build info
dovecot_build_info{version="2.3.19.1",revision="9b53102964"} 1
# HELP dovecot_auth_request Total number of all events of this kind
# TYPE dovecot_auth_request counter
dovecot_auth_request_total{success="yes"} 2
dovecot_auth_request_count 3
# HELP dovecot_auth_request_duration_seconds Total duration of all events of this kind
# TYPE dovecot_auth_request_duration_seconds counter
dovecot_auth_request_duration_seconds_total{success="yes"} 0.040022
dovecot_auth_request_duration_seconds_sum 0.041483
# HELP dovecot_imap_hibernated Total number of all events of this kind
# TYPE dovecot_imap_hibernated counter
dovecot_imap_hibernated_total 1
# HELP dovecot_imap_command_duration Histogram
# TYPE dovecot_imap_command_duration histogram
dovecot_imap_command_duration_bucket{le="0.000100"} 2
dovecot_imap_command_duration_bucket{le="+Inf"} 5
dovecot_imap_command_duration_sum 0.008091
dovecot_imap_command_duration_count 5
# EOF
"""
REPORT = """\
# HELP chatmail_accounts Addresses.
# TYPE chatmail_accounts gauge
chatmail_accounts{kind="all"} 7
"""


def run_python(directory, program):
    """Run a program as the process of a service that counts in `directory`. Return its output."""
    environment = os.environ | {"PYTHONPATH": str(PACKAGE.parent)}
    if directory:
        environment["PROMETHEUS_MULTIPROC_DIR"] = str(directory)
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return done.stdout + done.stderr


def counting(process, *calls):
    """Return a program that counts. Each of `calls` has the arguments of one counters.count()."""
    lines = ["from chatmaild.metrics import counters", f"counters.start({process!r})"]
    return "\n".join([*lines, *(f"counters.count(*{call!r})" for call in calls)])


def collect(parts):
    """Return {series: number} of all that the endpoint shows. A series is "name|key=value"."""
    registry = CollectorRegistry()
    registry.register(parts)
    text = generate_latest(registry).decode()
    # This checks that the answer is well-formed in OpenMetrics, the other format of Prometheus.
    list(strictly(openmetrics.generate_latest(registry).decode()))
    return {
        sample.name + "".join(f"|{key}={value}" for key, value in sorted(sample.labels.items())): (
            sample.value
        )
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


class Dovecot:
    """A server on a Unix socket that answers in pieces, with `delay` seconds between them."""

    def __init__(self, path, pieces, delay=0.0):
        self.pieces, self.delay = pieces, delay
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.bind(str(path))
        self.socket.listen()
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        while True:
            connection, _ = self.socket.accept()
            with connection:
                connection.recv(1000)
                try:
                    for piece in self.pieces:
                        connection.sendall(piece)
                        time.sleep(self.delay)
                except OSError:
                    pass


def dovecot_answer(body=FROM_DOVECOT, status="200 OK"):
    return f"HTTP/1.1 {status}\r\nConnection: close\r\n\r\n{body}".encode()
