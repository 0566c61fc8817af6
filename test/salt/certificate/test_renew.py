"""chatmail_certificate.renew: what the orchestration `chatmail.fleet.renew` calls on each relay."""

import importlib.util
from pathlib import Path

import pytest

MODULE = Path(__file__).resolve().parents[3] / "_modules/chatmail_certificate.py"


@pytest.fixture
def renew():
    """A function that calls `renew` with answers of the program: tls_mode, due, obtain."""

    def call(mode, due="", error=None):
        answers = {"due": due, "obtain": {"error": error, "missing": {}}}
        specification = importlib.util.spec_from_file_location("chatmail_certificate", MODULE)
        module = importlib.util.module_from_spec(specification)
        specification.loader.exec_module(module)
        asked = []

        def program(_part, command, _arguments, settings):
            asked.append(command)
            return answers[command]

        module.__salt__ = {
            "chatmail_program.settings": lambda: {"tls_mode": mode},
            "chatmail_program.call": program,
        }
        return module.renew(), asked

    return call


def test_certificate_that_is_due_is_renewed(renew):
    found, asked = renew("acme", due="it expires in 3 days")
    assert found == {"result": True, "comment": "renewed, because it expires in 3 days"}
    assert asked == ["due", "obtain"]


def test_certificate_that_is_not_due_stays(renew):
    assert renew("acme") == ({"result": True, "comment": "no certificate is due"}, ["due"])


@pytest.mark.parametrize("mode", ["external", "self_signed"])
def test_relay_without_an_authority_has_nothing_to_do(renew, mode):
    found, asked = renew(mode)
    assert (found["result"], asked) == (True, [])


def test_failure_of_the_authority_is_one(renew):
    found, _asked = renew("acme", due="it lacks www", error="port 80 is closed")
    assert found == {"result": False, "comment": "port 80 is closed"}
