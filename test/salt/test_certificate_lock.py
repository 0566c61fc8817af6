"""Two processes that put a certificate in use at the same time: the second one waits."""

import os
import ssl
import threading
import time

import pytest
from chatmaild.certificate import installing, self_signed


@pytest.fixture
def tls(tmp_path, monkeypatch):
    monkeypatch.setattr(installing, "TLS", tmp_path / "tls")
    monkeypatch.setattr(installing, "DAEMONS", ())
    return tmp_path / "tls"


def make(directory, placeholder=False):
    """Make a pair in a directory, as the state `chatmail_certificate.self_signed` does."""
    directory.mkdir(exist_ok=True)
    paths = [str(directory / name) for name in ("fullchain.pem", "privkey.pem")]
    self_signed.ensure(
        *paths,
        subject_names=["chat.example.org"],
        group="root",
        days=90,
        days_remaining=30,
        placeholder=placeholder,
        test=False,
    )
    return paths


def wait_until(condition):
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end, condition
        time.sleep(0.01)


def is_waited_for(directory):
    """Tell whether a process waits for the lock of a directory, as the kernel lists it."""
    with open("/proc/locks") as lines:
        return any(f":{os.stat(directory).st_ino} " in line for line in lines if "->" in line)


@pytest.fixture
def amid_a_swap(tls, tmp_path, monkeypatch):
    """Stop a thread in the middle of an installation. Return (the pair that it installs, finish).

    finish() lets the thread go on and waits for its end.
    """
    first = make(tmp_path / "first")
    make(tls)
    reached, go_on = threading.Event(), threading.Event()
    replace_link = installing._replace_link

    def replace_and_stop(link, target):
        replace_link(link, target)
        if threading.current_thread().name == "first" and not reached.is_set():
            reached.set()
            assert go_on.wait(30)

    monkeypatch.setattr(installing, "_replace_link", replace_and_stop)
    swap = threading.Thread(target=installing.install, args=first, name="first")
    swap.start()
    assert reached.wait(30)

    def finish():
        go_on.set()
        swap.join(30)
        assert not swap.is_alive()

    yield first, finish
    finish()


def in_use(tls):
    """Return the pair in use. OpenSSL has loaded it, so the two belong together."""
    paths = [str(tls / name) for name in ("fullchain.pem", "privkey.pem")]
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(*paths)
    return [open(path, "rb").read() for path in paths]


def contents(paths):
    return [open(path, "rb").read() for path in paths]


@pytest.mark.skipif(os.geteuid() != 0, reason="the key of a certificate is root's")
def test_second_installation_waits_for_the_first(amid_a_swap, tls, tmp_path):
    """Once, each of two runs removed the directory that the other had just made: no pair was left.

    Since then an installation holds a lock.
    """
    second = make(tmp_path / "second")
    _first, finish = amid_a_swap
    results = []
    other = threading.Thread(target=lambda: results.append(installing.install(*second)))
    other.start()
    wait_until(lambda: is_waited_for(tls))
    finish()
    other.join(30)
    assert results == [True]
    assert in_use(tls) == contents(second)
    assert len(list(tls.glob("pair-*"))) == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="the key of a certificate is root's")
def test_second_installation_of_the_same_pair_changes_nothing(amid_a_swap, tls):
    first, finish = amid_a_swap
    results = []
    other = threading.Thread(target=lambda: results.append(installing.install(*first)))
    other.start()
    wait_until(lambda: is_waited_for(tls))
    finish()
    other.join(30)
    assert results == [False]
    assert in_use(tls) == contents(first)


@pytest.mark.skipif(os.geteuid() != 0, reason="the key of a certificate is root's")
def test_converge_amid_a_swap_does_not_replace_the_new_pair(amid_a_swap, tls):
    """Once, a converge read the certificate of one pair and the key of the other.

    It took the pair for broken and made a new one.
    """
    first, finish = amid_a_swap
    other = threading.Thread(target=make, args=[tls], kwargs={"placeholder": True})
    other.start()
    wait_until(lambda: is_waited_for(tls))
    finish()
    other.join(30)
    assert in_use(tls) == contents(first)
