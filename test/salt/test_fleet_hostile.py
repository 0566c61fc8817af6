"""The runner chatmail_fleet when somebody else controls one relay, `evil`: the others stay in view.

What a minion returns is its own choice: any value of any size.
"""

import functools

import pytest
from support.played_back import Fleet, Minions

STATUS, DNS = "chatmail_overview.status", "chatmail_overview.dns"
INVITE = "chatmail_accounts.invite"
WELL = {"result": True, "formula": "2026.11", "queue": 3, "comment": ""}
ILL = {**WELL, "result": False, "comment": "units: coturn is inactive"}
DEEP = functools.reduce(lambda inner, _: [inner], range(600), {})


@pytest.fixture
def fleet(tmp_path, monkeypatch):
    return Fleet(tmp_path, monkeypatch)


@pytest.mark.parametrize(
    "answer",
    [
        {**WELL, "comment": "\x1b]0;title\x07\x1b[2J\x1b[1;1H\nall is well\r"},
        {**WELL, "formula": "\x1b[2J", "\x1b[31mname": 1},
        {**WELL, "queue": "x" * 100_000},
        {**WELL, "comment": "x" * 1_000_000},
        {**WELL, **{f"column{number}": "x" for number in range(10_000)}},
        {**WELL, "comment": {"a": 1}, "formula": None, "queue": {"a": 1}},
        {**WELL, "to": {"mail": {"good": "gone"}}},
        {**WELL, "to": "mail"},
        {**WELL, "queue": DEEP},
        [f"\x1b[2J{'x' * 1_000_000}"],
        "\x1b[2J",
    ],
    ids=range(11),
)
def test_table_shows_the_others_whatever_one_relay_answers(fleet, answer):
    """Once, escape sequences reached the terminal, and other types ended the runner."""
    found = fleet.call("status", {STATUS: {"evil": answer, "good": ILL}}, ["evil", "good"])
    shown = fleet.show(found)
    assert found["data"]["good"] == {**ILL, "answered": True}
    assert "\n!  good" in shown
    assert "\ngood: units: coturn is inactive\n" in shown
    assert all(each.isprintable() or each == "\n" for each in shown)
    assert max(map(len, shown.splitlines())) < 2200


def test_relay_cannot_say_that_it_was_silent(fleet):
    answer = {**WELL, "answered": False, "result": False}
    found = fleet.call("status", {STATUS: {"evil": answer}}, ["evil"])
    assert (found["retcode"], found["data"]["evil"]["answered"]) == (1, True)


@pytest.mark.parametrize("domain", ["good.example.org", "../../etc/x", "", None, "x" * 5000])
def test_zone_of_a_relay_goes_into_its_own_file(fleet, tmp_path, domain):
    """Once, a relay that named another one's domain wrote that one's file of records."""
    good = {**WELL, "domain": "good.example.org", "wrong": [], "zone": "good"}
    evil = {**good, "domain": domain, "zone": "evil"}
    answers = {DNS: {"good": good, "evil": evil, "other": {**good, "zone": ["no text"]}}}
    found = fleet.call("dns", answers, list(answers[DNS]), files=tmp_path / "zones")
    written = {path.name: path.read_text() for path in (tmp_path / "zones").iterdir()}
    assert written == {"good.zone": "good", "evil.zone": "evil"}
    assert found["data"]["good"]["file"] == str(tmp_path / "zones/good.zone")


@pytest.mark.parametrize(
    "link",
    [
        "https://evil.example.org/#{token}\ngood\thttps://evil.example.org/",
        "https://evil.example.org/#{token}\tx",
        "https://evil.example.org/",
        "{token}" * 1000,
        7,
        None,
    ],
)
def test_invitation_is_one_line_of_its_own_relay(fleet, tmp_path, link):
    """Once, a relay wrote lines for others, or ended the runner and so lost all invitations."""
    good = {"id": "i", "link": "https://good.example.org/#{token}", "code": "x:{token}", "uses": 1}
    file = tmp_path / "invitations"
    answers = {INVITE: {"evil": {**good, "link": link}, "good": good}}
    found = fleet.call("invite", answers, str(file), ["evil", "good"])
    assert [line.split("\t")[0] for line in file.read_text().splitlines()] == ["good"]
    assert found["data"]["evil"]["result"] is False
    assert found["retcode"] == 1


OPENED = {"good": {"domain": "good.example.org"}, "fine": {"domain": "fine.example.org"}}


def exchange(fleet, evil):
    """Let three relays exchange messages. evil: {step: answer} of one of them."""
    domains = ["evil.example.org", *(each["domain"] for each in OPENED.values())]

    def send(domains, **_given):
        straight = {domain: {"https": 0.1, "smtp": 0.1} for domain in domains}
        return {"mail": {"sent": 1000.0}, "left": {}, "straight": straight}

    ways = {"mail": 1000.5, "https": 1000.5, "smtp": 1000.5}
    usual = {"send": send, "seen": dict.fromkeys(domains, ways), "close": True}
    answers = {
        f"chatmail_ping.{step}": {
            "evil": evil.get(step, usual.get(step, {"domain": domains[0]})),
            **{name: usual.get(step, opened) for name, opened in OPENED.items()},
        }
        for step in ("open", "send", "seen", "close")
    }
    return fleet.call("ping", answers, ["evil", *OPENED])


SENT = {"mail": {"sent": 1.0}, "left": {}}
PAIR = {"https": 0.1, "smtp": 0.1}


@pytest.mark.parametrize(
    "evil",
    [
        {"open": {"domain": "x\r\nBcc: a@b.example"}},
        {"open": {"domain": "x" * 300}},
        {"open": {"domain": ["x"]}},
        {"open": {"domain": "x y"}},
        {"send": {**SENT, "straight": {}}},
        {"send": {**SENT, "straight": []}},
        {"send": {"mail": [], "left": {}, "straight": {}}},
        {"send": {**SENT, "mail": {"sent": "x"}, "straight": {}}},
        {"send": {**SENT, "left": {"good.example.org": 1}, "straight": {}}},
        {"send": lambda domains, **_: {**SENT, "straight": {d: {"https": {}} for d in domains}}},
        {"send": lambda domains, **_: {**SENT, "straight": dict.fromkeys(domains, "https")}},
        {
            "send": lambda domains, **_: {
                "mail": {"sent": float("inf")},
                "left": {},
                "straight": dict.fromkeys(domains, PAIR),
            }
        },
        {"seen": {"good.example.org": 5}},
        {"seen": {"good.example.org": {"mail": "1000.5"}}},
        {"seen": {"good.example.org": {"mail": float("nan")}}},
    ],
)
def test_relay_that_answers_anything_spoils_its_own_row_and_column(fleet, evil):
    """Once, some of these answers ended the runner, and others failed the mail of all relays."""
    found = exchange(fleet, evil)
    assert found["data"]["evil"]["result"] is False
    for name in OPENED:
        assert found["data"][name]["result"] is True
        assert [found["data"][name]["to"]["mail"][other] for other in OPENED] == [0.5, 0.5]
    fleet.show(found)
    for _function, name, given in fleet.minions.calls:
        assert name in ("evil", *OPENED)
        assert all(len(domain) < 30 for domain in given.get("domains", ()))


def test_relay_that_takes_the_domain_of_another_one_is_named(fleet):
    found = exchange(fleet, {"open": OPENED["good"]})
    assert "another relay says good.example.org, too" in found["data"]["evil"]["comment"]
    assert found["data"]["fine"]["to"]["mail"]["fine"] == 0.5


@pytest.mark.parametrize(
    "data",
    [{}, {"id": "good"}, {"id": ["good"], "jid": "1"}, {"id": "good", "jid": None}, {"jid": {}}],
    ids=range(5),
)
def test_event_of_another_form_does_not_end_the_runner(fleet, monkeypatch, data):
    """A minion can send any event with any tag. Once, one without a job's number ended the run."""
    publish = Minions.pub

    def pub(self, *given, **named):
        self.events.append({"tag": "salt/job/1/ret/good", "data": data})
        return publish(self, *given, **named)

    monkeypatch.setattr(Minions, "pub", pub)
    get_event = Minions.get_event
    monkeypatch.setattr(
        Minions,
        "get_event",
        lambda self, **given: (
            self.events.popleft()
            if self.events and self.events[0]["data"] is data
            else get_event(self, **given)
        ),
    )
    found = fleet.call("status", {STATUS: {"good": WELL}}, ["good"])
    assert found["data"]["good"] == {**WELL, "answered": True}
