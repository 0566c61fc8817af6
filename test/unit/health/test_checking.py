"""The whole check: all steps run, and the throwaway addresses go, whatever happens."""

import os

import pytest
from chatmaild.health import checking, throwaway
from chatmaild.health.running import Failed, Step


def ok(_state):
    return "fine"


def faulty(_state):
    raise Failed("it is broken")


def made_by_a_step(state):
    """Make an address like the step `new addresses`."""
    throwaway.make_pair(state)
    raise ZeroDivisionError


def interrupted(_state):
    raise KeyboardInterrupt


PAIR = Step("addresses", throwaway.make_pair, "")


def run(monkeypatch, settings, *steps):
    monkeypatch.setattr(checking, "STEPS", steps)
    return checking.check(settings, True)


def test_failure_does_not_keep_the_other_steps(queued, settings, monkeypatch):
    found = run(monkeypatch, settings, Step("a", faulty, "Repair it"), Step("b", ok, ""), PAIR)
    assert found["result"] is False
    assert found["seconds"] >= 0
    assert [(each["name"], each["result"]) for each in found["steps"]] == [
        *(("a", False), ("b", True), ("addresses", True), ("removal", True)),
    ]
    assert found["steps"][0]["comment"] == "it is broken. Repair it"


def test_addresses_exist_for_the_steps_and_go_with_the_last_one(queued, settings, monkeypatch):
    seen = []

    def look(state):
        seen.extend(os.listdir(settings["mailboxes_dir"]))
        assert sorted(seen) == sorted(account.address for account in state.accounts())
        return ""

    found = run(monkeypatch, settings, PAIR, Step("look", look, ""))
    assert (found["result"], len(seen)) == (True, 2)
    assert os.listdir(settings["mailboxes_dir"]) == []


@pytest.mark.parametrize("ask", [made_by_a_step, faulty, interrupted])
def test_addresses_go_after_an_exception(queued, settings, monkeypatch, ask):
    removed = []
    remove = throwaway.remove_one
    monkeypatch.setattr(
        throwaway, "remove_one", lambda *each: removed.append(each[1]) or remove(*each)
    )
    try:
        found = run(monkeypatch, settings, PAIR, Step("bad", ask, ""))
        assert found["result"] is False
    except KeyboardInterrupt:
        assert ask is interrupted
    assert len(removed) >= 2
    assert os.listdir(settings["mailboxes_dir"]) == []


def test_address_that_stays_fails_the_check_without_its_name(queued, settings, monkeypatch):
    removed = []

    def remove(_settings, address):
        removed.append(address)
        raise OSError(f"{address} is busy")

    monkeypatch.setattr(throwaway, "remove_one", remove)
    found = run(monkeypatch, settings, PAIR)
    assert found["result"] is False
    assert len(removed) == 2  # The first failure does not keep the second address.
    comment = found["steps"][-1]["comment"]
    assert "<address> is busy" in comment
    assert "chatmail_accounts.delete" in comment
    assert not any(address in comment for address in removed)


def test_messages_of_the_addresses_leave_the_queue(queued, settings, monkeypatch):
    calls = []
    monkeypatch.setattr(throwaway.subprocess, "run", lambda *a, **k: calls.append((a[0], k)))

    def queue(state):
        sender, recipient = state.accounts()
        queued.append(message("A", sender.address, "x@example.org"))
        queued.append(message("B", "x@example.org", recipient.address))
        queued.append(message("C", "x@example.org", "y@example.org"))
        return ""

    assert run(monkeypatch, settings, PAIR, Step("queue", queue, ""))["result"] is True
    [(command, options)] = calls
    assert command == ["postsuper", "-d", "-"]
    assert options["input"].split() == ["A", "B"]


def message(queue_id, sender, recipient):
    return {"queue_id": queue_id, "sender": sender, "recipients": [{"address": recipient}]}


def test_taken_name_is_not_used(queued, settings, monkeypatch):
    names = iter([("taken0000", "p"), ("taken0000", "p"), ("free00000", "p")])
    domain = settings["address_domain"]
    monkeypatch.setattr(
        throwaway, "new_credentials", lambda _: (lambda n, p: (f"{n}@{domain}", p))(*next(names))
    )

    def look(state):
        assert [account.address for account in state.accounts()] == [
            *(f"taken0000@{domain}", f"free00000@{domain}"),
        ]
        return ""

    found = run(monkeypatch, settings, PAIR, Step("look", look, ""))
    assert found["result"] is True


def test_step_that_is_not_asked_does_not_fail_the_check(queued, settings, monkeypatch):
    found = run(monkeypatch, settings, Step("turn", ok, "", ("coturn",)))
    assert [each["result"] for each in found["steps"]] == [None, True]
    assert found["result"] is True


def test_each_step_has_a_name_of_its_own_and_says_what_to_do():
    names = [step.name for step in (*checking.STEPS, checking.REMOVAL)]
    assert len(set(names)) == len(names)
    assert all(step.advice for step in checking.STEPS)
    assert all(step.ask.__doc__ for step in checking.STEPS)
