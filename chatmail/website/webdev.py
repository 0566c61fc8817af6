"""Serves the website on this machine while you write its pages; `make webdev` runs it.

Each request builds all pages, so a reload in the browser shows the last change. With a pillar file
as argument, it shows the pages of that relay, including your own `www_folder`. POST /new answers
with a made-up address; with `registration: invite` it needs a token of 22 to 43 characters.
"""

import argparse
import contextlib
import importlib.util
import json
import mimetypes
import re
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import yaml

HERE = Path(__file__).parent
# nginx sends the same policy, so a page that breaks there breaks here, too.
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

SAMPLE_PILLAR = {"chatmail": {"mail_domain": "chat.example.org"}}
GRAINS = {"os": "Debian", "osmajorrelease": 13}
NEW_ADDRESS = {
    "email": "k3x8q2w5z@_chat.example.org",
    "password": "Wq7mR2xvT9bK4zn",
    "dclogin_url": "dclogin:k3x8q2w5z@_chat.example.org?p=Wq7mR2xvT9bK4zn&v=1",
}


def load(path: Path):
    """Load the module in the file `path`, which belongs to no package."""
    spec = importlib.util.spec_from_file_location(f"website_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


builder = load(HERE / "files" / "build.py")
settings_module = load(HERE.parent / "settings.py")


def resolve(pillar: dict) -> dict:
    """Return the settings that a relay with this pillar has."""
    return settings_module.resolve(pillar, GRAINS)


def answer_new(settings: dict, path: str) -> tuple[int, dict]:
    """Return status and JSON that a relay with these settings answers to a POST."""
    wanted = r"/new\?token=[A-Za-z0-9_-]{22,43}" if settings["registration"] == "invite" else "/new"
    if re.fullmatch(wanted, path) and not settings["nocreate"]:
        return 200, NEW_ADDRESS
    return (403 if path.partition("?")[0] == "/new" else 404), {}


def make_server(settings: dict, port: int = 0) -> ThreadingHTTPServer:
    """Return a server on 127.0.0.1 that answers with pages built at that moment.

    settings: as `chatmail/settings.py` resolves them. port: 0 takes a free one.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            try:
                files = builder.build(settings)
            except builder.WebsiteError as error:
                self.reply(500, "text/plain; charset=utf-8", str(error).encode())
                return
            path = self.path.partition("?")[0].strip("/")
            # The order that nginx tries (docs/website.md).
            for name in (path, f"{path}/index.html".lstrip("/"), f"{path}.html"):
                if name in files:
                    kind = mimetypes.guess_type(name)[0] or "application/octet-stream"
                    self.reply(200, kind, files[name])
                    return
            self.reply(404, "text/plain", b"no such page\n")

        def do_POST(self):
            status, answer = answer_new(settings, self.path)
            self.reply(status, "application/json", json.dumps(answer).encode())

        def reply(self, status, kind, body):
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Cache-Control", "no-store")
            self.send_header("Content-Security-Policy", CONTENT_SECURITY_POLICY)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments):
            """Stay silent: the browser shows what happened."""

    return ThreadingHTTPServer(("127.0.0.1", port), Handler)


def main():
    """Serve until interrupted."""
    parser = argparse.ArgumentParser(description="Show the relay's web pages on this machine.")
    parser.add_argument("pillar", nargs="?", type=Path, help="YAML file with the key chatmail")
    parser.add_argument("--port", type=int, default=8080)
    options = parser.parse_args()
    pillar = yaml.safe_load(options.pillar.read_text()) if options.pillar else SAMPLE_PILLAR
    with make_server(resolve(pillar), options.port) as server:
        print(f"http://127.0.0.1:{server.server_port}/ shows the pages; Ctrl-C ends it.")
        with contextlib.suppress(KeyboardInterrupt):
            server.serve_forever()


if __name__ == "__main__":
    main()
