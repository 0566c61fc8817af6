"""A function of the operator publishes the records, or the operator does so by hand."""

import http.server
import json
import os
import re
import threading

import dns.name
import dns.rdata
import dns.rdatatype
import pytest
from chatmaild.dns.rdata import make_rdata
from salt.exceptions import CommandExecutionError
from support import own_modules
from support.dnsservers import text_of, world
from support.own_modules import ADDRESSES, DOMAIN

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="name servers on port 53 need root")


def test_hook_gets_the_changes_and_its_refusal_is_an_error(own, tmp_path):
    own.relay["dns"] |= {"server": None, "hook": "my_dns.apply"}
    with world(tmp_path):
        with pytest.raises(CommandExecutionError, match="there is no Salt function my_dns"):
            own.dns.publish()
        seen = []
        own.salt["my_dns.apply"] = seen.extend
        assert own.dns.publish() == seen
        assert seen[0] == {
            "zone": "example.org.",
            "name": f"{DOMAIN}.",
            "type": "A",
            "ttl": 3600,
            "old": [],
            "new": [ADDRESSES[0]],
        }
        spf = next(c for c in seen if c["name"] == f"{DOMAIN}." and c["type"] == "TXT")
        assert len(spf["old"]) == 1
        assert {*spf["old"], "v=spf1 a ~all"} == set(spf["new"])
        own.salt["my_dns.apply"] = lambda changes: False
        with pytest.raises(CommandExecutionError, match="answered False"):
            own.dns.publish()


class Provider(http.server.BaseHTTPRequestHandler):
    """A server that accepts a bulk change, as deSEC's API does."""

    seen = ()

    def do_PATCH(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        Provider.seen = (self.path, self.headers["Authorization"], json.loads(body))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_):
        pass


def test_hook_of_the_documentation_sends_all_changes_in_one_request(own, tmp_path):
    text = (own_modules.REPOSITORY / "docs" / "dns.md").read_text()
    hook = {}
    exec(re.search(r"```python\n(.*?)```", text, re.DOTALL)[1], hook)  # ours, from the docs
    (tmp_path / "token").write_text("t0ken\n")
    server = http.server.HTTPServer(("127.0.0.1", 0), Provider)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        hook |= {"API": f"http://127.0.0.1:{server.server_port}", "TOKEN": tmp_path / "token"}
        own.relay["dns"] |= {"server": None, "hook": "desec.apply"}
        own.salt["desec.apply"] = hook["apply"]
        with world(tmp_path):
            changes = own.dns.publish()
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    path, token, rrsets = Provider.seen
    assert (path, token, len(rrsets)) == ("/example.org/rrsets/", "Token t0ken", len(changes))
    for change, rrset in zip(changes, rrsets, strict=True):
        assert f"{rrset['subname']}.example.org." == change["name"]
        read = [dns.rdata.from_text("IN", rrset["type"], text) for text in rrset["records"]]
        wanted = [make_rdata(change["type"], value) for value in change["new"]]
        assert set(map(text_of, read)) == set(map(text_of, wanted))


def test_no_way_to_publish_is_an_error_with_the_next_step(own):
    own.relay["dns"]["server"] = None
    result = own.dns_state.published("records")
    assert result["result"] is False
    assert "chatmail_dns.zone" in result["comment"]
