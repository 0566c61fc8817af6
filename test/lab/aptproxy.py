"""A caching apt proxy on the host's address in the lab. It is the only way out of the lab.

The proxy is an nginx with its own configuration, cache and pid file. The nginx service of this host
is not used.
"""

from pathlib import Path

import network
from host import CACHE, RUN, LabError, await_condition, daemon_pid, run, start_daemon, stop_daemon

PORT = 3142
PID = RUN / "apt-proxy.pid"
LOG = RUN / "apt-proxy.log"

CONFIGURATION = """\
# Written by the lab. This nginx forwards the absolute-URI requests of apt and caches the answers.
daemon off;
pid {run}/nginx.pid;
error_log {log};
worker_processes 1;
events {{ worker_connections 512; }}
http {{
    access_log off;
    client_body_temp_path {run}/nginx-body;
    fastcgi_temp_path {run}/nginx-fastcgi;
    uwsgi_temp_path {run}/nginx-uwsgi;
    scgi_temp_path {run}/nginx-scgi;
    proxy_temp_path {cache}/unfinished;
    proxy_cache_path {cache}/files keys_zone=apt:20m levels=1:2 max_size=8g inactive=60d;
    proxy_cache apt;
    proxy_cache_key $http_host$request_uri;
    proxy_cache_lock on;
    proxy_cache_use_stale error timeout;
    proxy_ignore_headers Cache-Control Expires Set-Cookie Vary;
    # By default nginx sends HTTP/1.0, to which the mirrors answer 426.
    proxy_http_version 1.1;
    proxy_set_header Connection "";
    proxy_set_header Host $http_host;
    server {{
        listen {address}:{port};
        resolver {resolvers};
        # A package, or a file named by its hash, never changes. An index changes its content.
        location ~ /(pool|by-hash)/ {{
            proxy_pass http://$http_host$request_uri;
            proxy_cache_valid 200 60d;
        }}
        location / {{
            proxy_pass http://$http_host$request_uri;
            proxy_cache_valid 200 5m;
        }}
    }}
}}
"""


def url():
    """Return the URL of the proxy for boxes and image builds."""
    return f"http://{network.address(network.HOST_NUMBER)}:{PORT}"


def resolvers():
    """Return the host's name servers in nginx's notation."""
    found = []
    for line in Path("/etc/resolv.conf").read_text().splitlines():
        if line.startswith("nameserver "):
            server = line.split()[1].partition("%")[0]
            found.append(f"[{server}]" if ":" in server else server)
    if not found:
        raise LabError("/etc/resolv.conf names no name server, so no packages can be fetched")
    # Without an IPv6 route, every second connection would fail at its first try.
    has_ipv6 = run("ip", "-6", "route", "show", "default").stdout.strip()
    return " ".join(found) + ("" if has_ipv6 else " ipv6=off")


def ensure():
    """Start the proxy, unless it runs. The caller holds the lab's lock."""
    if daemon_pid(PID):
        return
    cache = CACHE / "apt"
    cache.mkdir(parents=True, exist_ok=True)
    settings = RUN / "apt-proxy.conf"
    settings.write_text(
        CONFIGURATION.format(
            run=RUN,
            log=LOG,
            cache=cache,
            address=network.address(network.HOST_NUMBER),
            port=PORT,
            resolvers=resolvers(),
        )
    )
    process = start_daemon(
        PID, ["nsenter", f"--net={network.namespace(network.HOST)}", "nginx", "-c", settings], LOG
    )
    await_condition(lambda: process.poll() is not None or listens(), 10, "the apt proxy's start")
    if process.poll() is not None:
        raise LabError(f"the apt proxy did not start: {LOG.read_text().strip()[-1000:]}")


def listens():
    """Return whether a process listens on the proxy's port."""
    shown = network.inside(network.HOST, "ss", "-Hltn", "sport", "=", PORT).stdout
    return bool(shown.strip())


def stop():
    """End the proxy."""
    stop_daemon(PID)
