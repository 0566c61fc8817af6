"""The lab's ACME authority: pebble, Debian's package of Let's Encrypt's test server.

The authority has its own IP address, so a test can block only this address for a relay. Each run
of pebble makes a new root certificate. `trust` makes a box trust the certificate of this run.
"""

import json

import network
from host import RUN, LabError, await_condition, daemon_pid, run, start_daemon, stop_daemon

DIRECTORY = RUN / "pebble"
PID = RUN / "pebble.pid"
LOG = RUN / "pebble.log"
NAME = "acme.lab"
URL = f"https://{NAME}:14000/dir"
CERTIFICATE, KEY = DIRECTORY / "server.pem", DIRECTORY / "server.key"  # for pebble's own HTTPS
ROOT = DIRECTORY / "root.pem"  # the root of the certificates that pebble issues

# pebble does not wait, does not refuse requests at random, and validates each name each time.
ENVIRONMENT = ["PEBBLE_VA_NOSLEEP=1", "PEBBLE_WFE_NONCEREJECT=0", "PEBBLE_AUTHZREUSE=0"]


def ensure():
    """Start the authority, unless it runs. The caller holds the lab's lock, and the DNS runs."""
    if daemon_pid(PID):
        return
    DIRECTORY.mkdir(parents=True, exist_ok=True)
    ROOT.unlink(missing_ok=True)
    make_certificate()
    settings = DIRECTORY / "pebble.json"
    settings.write_text(json.dumps({"pebble": configuration()}))
    dns = f"{network.address(network.NAMESERVER)}:53"
    argv = ["nsenter", f"--net={network.namespace(network.LAB)}", "env", *ENVIRONMENT]
    process = start_daemon(PID, [*argv, "pebble", "-config", settings, "-dnsserver", dns], LOG)
    await_condition(lambda: process.poll() is not None or fetch_root(), 10, "the start of pebble")
    if process.poll() is not None:
        raise LabError(f"pebble did not start: {LOG.read_text().strip()[-1000:]}")


def configuration():
    """Return pebble's configuration: its address, and the usual ports for validation."""
    address = network.address(network.AUTHORITY)
    return {
        "listenAddress": f"{address}:14000",
        "managementListenAddress": f"{address}:15000",
        "certificate": str(CERTIFICATE),
        "privateKey": str(KEY),
        "httpPort": 80,
        "tlsPort": 443,
    }


def make_certificate():
    """Make a self-signed certificate for the authority's own HTTPS."""
    names = f"subjectAltName=DNS:{NAME},IP:{network.address(network.AUTHORITY)}"
    command = ["openssl", "req", "-x509", "-nodes", "-days", "365", "-subj", f"/CN={NAME}"]
    command += ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-addext", names]
    run(*command, "-keyout", KEY, "-out", CERTIFICATE)


def fetch_root():
    """Fetch the root certificate of this run; return whether pebble answered."""
    # `lab run` needs neither, and tests call it thousands of times.
    import ssl
    import urllib.request

    url = f"https://{network.address(network.AUTHORITY)}:15000/roots/0"
    context = ssl.create_default_context(cafile=str(CERTIFICATE))
    try:
        with urllib.request.urlopen(url, context=context, timeout=5) as answer:
            ROOT.write_bytes(answer.read())
    except OSError:
        return False
    return True


def trust(bundle):
    """Return the files that make a Debian trust the authority, as update-ca-certificates(8) would.

    bundle: the text of its ca-certificates.crt. Returns {path: text}.
    """
    files = {"etc/ssl/certs/ca-certificates.crt": bundle}
    for path in (CERTIFICATE, ROOT):
        text = path.read_text()
        digest = run("openssl", "x509", "-noout", "-hash", "-in", path).stdout.strip()
        files["etc/ssl/certs/ca-certificates.crt"] += text
        files[f"etc/ssl/certs/{digest}.0"] = text
        # update-ca-certificates reads this file the next time.
        files[f"usr/local/share/ca-certificates/lab-{path.stem}.crt"] = text
    return files


def stop():
    """End the authority."""
    stop_daemon(PID)
