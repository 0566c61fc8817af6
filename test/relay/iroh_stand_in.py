#!/usr/bin/python3
"""A stand-in for iroh-relay, with the same options and configuration. It echoes on /relay.

`GET /ping` answers VERSION, so tests see which program runs. Version "slow" waits for a second
before it listens.
"""

import argparse
import time
import tomllib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

VERSION = "one"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        if self.path == "/relay" and self.headers.get("Upgrade"):
            self.echo()
        elif self.path == "/ping":
            self.answer(200, VERSION.encode())
        else:
            self.answer(204 if self.path == "/generate_204" else 404)

    def answer(self, status, body=b""):
        self.send_response(status)
        # The real program sends both fields, too.
        self.send_header("Strict-Transport-Security", "max-age=63072000; includeSubDomains")
        if challenge := self.headers.get("X-Tailscale-Challenge"):
            self.send_header("X-Tailscale-Response", f"response {challenge}")
        if status != 204:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def echo(self):
        """Echo all bytes of an upgraded connection (RFC 9110 section 7.8)."""
        self.send_response(101)
        self.send_header("Upgrade", self.headers["Upgrade"])
        self.send_header("Connection", "upgrade")
        self.end_headers()
        while data := self.connection.recv(65536):
            self.connection.sendall(data)
        self.close_connection = True

    def log_message(self, *arguments):
        pass


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--config-path", required=True)
    with open(parser.parse_args().config_path, "rb") as stream:
        config = tomllib.load(stream)
    if config["enable_stun"] or config["enable_metrics"]:
        raise SystemExit("coturn uses the port of STUN, and nothing reads metrics here")
    if VERSION == "slow":
        time.sleep(1)
    host, _, port = config["http_bind_addr"].rpartition(":")
    ThreadingHTTPServer((host, int(port)), Handler).serve_forever()


if __name__ == "__main__":
    main()
