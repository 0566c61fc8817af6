"""What the steps about mail, METADATA, HTTPS and DNS make of the relay's answers."""

import contextlib
import imaplib
import json
import smtplib
from types import SimpleNamespace

import pytest
from chatmaild.certificate.self_signed import make_pair
from chatmaild.common.refusals import Refusal
from chatmaild.dkim import verifying
from chatmaild.health import connections, mail, names, services, web
from chatmaild.health.running import Account, Failed, NotAsked, State

PAIR = Account("alice0000@_chat.example.org", "a"), Account("bobby0000@_chat.example.org", "b")


@pytest.fixture
def with_pair(state):
    state.pair = PAIR
    return state


@pytest.fixture
def answer(monkeypatch):
    """Return a function that sets the answer to every request by HTTPS."""

    def set_answer(status, body=b""):
        body = body if isinstance(body, bytes) else json.dumps(body).encode()
        monkeypatch.setattr(connections, "ask_web", lambda *_: (status, body))

    return set_answer


def raising(error):
    def action(*_arguments):
        raise error

    return action


# Mail


def test_refusal_must_have_its_code():
    assert mail._expect(523, raising(smtplib.SMTPDataError(523, b"no"))) == "refused with 523"
    with pytest.raises(Failed, match="the relay took the message; expected: a refusal with 523"):
        mail._expect(523, lambda: None)
    for other in (smtplib.SMTPDataError(451, b"later"), ConnectionResetError()):
        with pytest.raises(type(other)):
            mail._expect(523, raising(other))
    with pytest.raises(NotAsked, match="max_user_send_burst_size"):
        mail._expect(523, raising(smtplib.SMTPRecipientsRefused({"a@b": (450, b"4.7.1")})))


@pytest.mark.parametrize("kind", [imaplib.IMAP4.error, imaplib.IMAP4.abort])
def test_fault_of_the_relay_is_no_refusal_of_a_password(with_pair, monkeypatch, kind):
    client = SimpleNamespace(login=raising(kind(b"[AUTHENTICATIONFAILED] Authentication failed.")))
    monkeypatch.setattr(connections, "imap", lambda _port: contextlib.nullcontext(client))
    assert mail.refuses_wrong_password(with_pair) == "refused"
    client.login = raising(kind(b"[UNAVAILABLE] Internal error"))
    with pytest.raises(kind):
        mail.refuses_wrong_password(with_pair)
    client.login = lambda *_: None
    with pytest.raises(Failed, match="wrong password succeeded; expected: a refusal"):
        mail.refuses_wrong_password(with_pair)


def test_message_from_another_relay_is_signed_by_the_live_keys(with_pair, tmp_path, monkeypatch):
    with pytest.raises(NotAsked, match="offline=True"):
        mail._make_incoming(with_pair)
    with_pair.offline = False
    signed = []
    monkeypatch.setattr(mail.signing, "load_keys", lambda: ["key"])
    monkeypatch.setattr(
        mail.signing, "signature_fields", lambda *each: signed.append(each) or [b" v=1"]
    )
    assert mail._make_incoming(with_pair).startswith(b"DKIM-Signature: v=1\r\nFrom: <alice0000@")
    assert signed[0][2:] == ("_chat.example.org", ["key"])


def test_relay_without_a_domain_signs_nothing_and_needs_no_dns(with_pair):
    with_pair.settings["dkim_required"] = False
    assert b"DKIM-Signature" not in mail._make_incoming(with_pair)
    with pytest.raises(NotAsked, match="does not sign"):
        names.signatures(with_pair)


def test_gateway_that_refuses_is_quoted(with_pair, answer):
    answer(200, b"250 2.0.0 ok\n")
    mail._post(with_pair, b"")
    answer(400, b"554 5.7.1 No DKIM signature found\n")
    with pytest.raises(Failed, match=r"answered 400 554 5\.7\.1 No DKIM signature found; expected"):
        mail._post(with_pair, b"")


def test_steps_without_addresses_are_not_asked(state):
    for ask in (mail.send_by_submission, mail.refuses_wrong_password):
        with pytest.raises(NotAsked, match="no throwaway addresses"):
            ask(state)


class Server:
    """An IMAP connection that answers with these lines."""

    def __init__(self, *lines):
        self.lines, self.sent = list(lines), []

    def send(self, data):
        self.sent.append(data)

    def readline(self):
        return self.lines.pop(0) if self.lines else b""


def test_idle_ends_with_its_answer():
    client = Server(b"+ idling\r\n", b"* 1 EXISTS\r\n", b"* 1 RECENT\r\n", b"idle OK done\r\n")
    with connections.idling(client):
        connections.await_notice(client)
    assert client.sent == [b"idle IDLE\r\n", b"DONE\r\n"]
    assert client.lines == []


def test_idle_without_a_notice_ends(monkeypatch):
    with pytest.raises(ConnectionError), connections.idling(Server(b"+ idling\r\n")) as _:
        connections.await_notice(Server())
    monkeypatch.setattr(connections, "PATIENCE", -1)
    with pytest.raises(TimeoutError):
        connections.await_notice(Server(b"* OK Still here\r\n"))


# TLS and METADATA


def test_port_with_another_certificate_is_named(state, tmp_path, monkeypatch):
    state.units = dict.fromkeys(("dovecot", "nginx", "postfix", "chatmail-filter"), "active")
    make_pair(tmp_path, ["_chat.example.org"])
    own = connections.certificate_in(state.settings["tls_certificate"])
    shown = dict.fromkeys(((port, protocol) for port, protocol in services.TLS_PORTS), own)
    monkeypatch.setattr(connections, "certificate_of", lambda port, name, _: shown[port, name])
    assert services.tls(state) == "8 listeners show the certificate in the file"
    shown[443, "imap"] = b"another"
    with pytest.raises(Failed, match=r"^port 443 \(imap\) shows SHA-256 .*; expected: SHA-256"):
        services.tls(state)
    state.units["dovecot"] = "failed"
    assert services.tls(state) == "5 listeners show the certificate in the file"
    monkeypatch.setattr(connections, "certificate_of", raising(imaplib.IMAP4.abort("gone")))
    with pytest.raises(Failed, match=r"port 25 \(smtp\): the relay answered gone, port 443"):
        services.tls(state)
    state.units.clear()
    with pytest.raises(NotAsked):
        services.tls(state)


@pytest.mark.parametrize(
    ("parts", "value"),
    [
        ([b'"" (/shared/x "text")'], "text"),
        ([b'"" (/shared/x NIL)'], None),
        ([(b'"" (/shared/x {8}', b"two\nline"), b")"], "two\nline"),
        ([], None),
    ],
)
def test_value_of_an_entry_is_read(parts, value):
    assert services._read_value(parts, "/shared/x") == value


def test_entry_that_is_absent_or_too_many_is_named(with_pair, tmp_path, monkeypatch):
    monkeypatch.setattr(services, "TURN_SECRET", tmp_path / "turn-secret")
    found = dict.fromkeys(("maxsmtprecipients", "appversions"), "x")

    def ask(_state, wanted):
        return {name: found.get(name.rpartition("/")[2]) for name in wanted}

    monkeypatch.setattr(services, "_ask_metadata", ask)
    assert services.metadata(with_pair) == "2 entries"
    with pytest.raises(NotAsked, match="turn-secret does not exist"):
        services.turn(with_pair)
    (tmp_path / "turn-secret").touch()
    found["irohrelay"] = "x"
    with pytest.raises(Failed, match=r"irohrelay is there, .*/turn is absent"):
        services.metadata(with_pair)
    with pytest.raises(Failed, match="has not the form"):
        services.turn(with_pair)


# HTTPS


def test_page_must_be_there(state, answer):
    answer(200, b"<!DOCTYPE html>")
    assert web.start_page(state) == "answers"
    for wrong in ((404, b"no"), (200, b"")):
        answer(*wrong)
        with pytest.raises(Failed):
            web.start_page(state)


def test_policy_must_be_that_of_the_settings(state, answer):
    with pytest.raises(NotAsked):
        web.mta_sts(state)
    state.settings.update(form="domain", mta_sts_policy="version: STSv1\r\nmode: enforce\r\n")
    answer(200, b"version: STSv1\nmode: enforce\n")
    assert web.mta_sts(state) == "answers"
    answer(200, b"version: STSv1\nmode: none\n")
    with pytest.raises(Failed, match="not the policy"):
        web.mta_sts(state)


@pytest.mark.parametrize("registration", ["invite", "closed"])
def test_refusal_of_new_addresses_must_be_that_of_the_settings(state, answer, registration):
    state.settings["registration"] = registration
    answer(403, {"reason": "only friends"})
    assert web.new_addresses(state) == "/new refuses, as the settings say: only friends"
    state.settings["registration"] = "open"
    with pytest.raises(Failed, match="answered 403: only friends; expected: a new address"):
        web.new_addresses(state)
    answer(429, {"reason": "too many"})
    assert "too many" in web.new_addresses(state)
    for status, body in ((503, {"reason": "short"}), (502, b"<html>"), (200, {}), (200, [])):
        answer(status, body)
        with pytest.raises(Failed):
            web.new_addresses(state)


def test_new_address_is_removed_later_even_if_it_cannot_log_in(state, answer, monkeypatch):
    answer(200, {"email": PAIR[0].address, "password": "a"})
    monkeypatch.setattr(connections, "imap", raising(ConnectionRefusedError()))
    with pytest.raises(ConnectionRefusedError):
        web.new_addresses(state)
    assert state.made == [PAIR[0]]


def test_own_iroh_relay_must_answer(state, answer):
    with pytest.raises(NotAsked, match="runs no iroh relay"):
        web.iroh(state)
    state.settings["iroh_relay"] = None
    with pytest.raises(NotAsked, match="nginx"):
        web.iroh(state)
    state.units = {"nginx": "active", "chatmail-iroh": "active"}
    answer(204)
    assert web.iroh(state) == "answers"
    answer(502)
    with pytest.raises(Failed, match="answered 502; expected: 204"):
        web.iroh(state)


# DNS


def record(name, kind, status, need="required"):
    return {"name": name, "type": kind, "status": status, "need": need, "found": [f"{name}v"]}


def test_required_records_decide(settings, monkeypatch):
    state = State(settings, offline=False)
    shown = {
        "result": False,
        "records": [
            *(record("a.", "MX", "missing"), record("b.", "TXT", "ok")),
            record("c.", "SRV", "missing", "recommended"),
        ],
    }
    monkeypatch.setattr(names.checking, "check", lambda _: shown)
    with pytest.raises(Failed, match=r"^a\. MX is missing; expected: all required records"):
        names.records(state)
    shown["result"], shown["records"][0]["status"] = True, "ok"
    assert names.records(state) == "right; recommended records that are not: 1"
    settings["form"] = "ip"
    with pytest.raises(NotAsked, match="needs no records"):
        names.records(state)
    state.offline = True
    for ask in (names.records, names.signatures):
        with pytest.raises(NotAsked, match="offline=True"):
            ask(state)


def test_keys_are_verified_with_the_records_in_dns(settings, monkeypatch):
    state, verdicts = State(settings, offline=False), {"one": "verified"}
    with pytest.raises(NotAsked, match="see the step dns"):
        names.signatures(state)
    state.dns = {"records": [record("one.", "TXT", "ok"), record("b.", "MX", "ok")]}
    asked = []
    monkeypatch.setattr(names.probing, "probe", lambda _, txt: asked.append(txt) or verdicts)
    assert names.signatures(state) == "keys that others can verify: 1"
    assert asked == [{"one.": ["one.v"]}]
    verdicts["two"] = str(Refusal(*verifying.NO_VALID_SIGNATURE))
    with pytest.raises(Failed, match=r"^two: .*; expected: verified"):
        names.signatures(state)
