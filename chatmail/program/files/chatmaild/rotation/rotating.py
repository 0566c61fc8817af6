"""The replacement of keys. At every moment other servers can verify the signatures."""

import time

from chatmaild.common.errors import OperatorError
from chatmaild.dkim import key_files, signing_state
from chatmaild.dkim.key_records import list_records, list_withdrawn, make_record, name_record
from chatmaild.dns.checking import check
from chatmaild.dns.publishing import publish

# The seconds between two questions to the name servers.
PAUSE = 5


def plan(settings, days=None):
    """Return what `rotate` and `withdraw` would do now, with DNS that takes and gives the records.

    days: age at which a key is replaced; without it, only a rotation that has begun goes on.
    Returns lists of selectors: {"signing": now, "next": that would sign, [] where no rotation would
    begin or go on, "withdraw": whose records and keys would go}.
    """
    state = signing_state.read_state()
    gone = {name.partition(".")[0] for name in list_withdrawn(settings)}
    kept = [key for key in state["retired"] if key["selector"] not in gone]
    fresh = [key["selector"] for key in state["next"]]
    due = days and any(signing_state.days_since(k["since"]) >= days for k in state["selectors"])
    # No second rotation begins while the last one's keys are in DNS.
    if due and not fresh and not kept:
        fresh = [key_files.choose_selector(algorithm) for algorithm in key_files.ALGORITHMS]
    return {
        "signing": [key["selector"] for key in state["selectors"]],
        "next": fresh,
        "withdraw": sorted(gone),
    }


def rotate(settings, wait=300, force=False):
    """Replace the keys that sign. At every moment other servers can verify the signatures.

    A call goes on where the last one stopped. It makes the next keys. It publishes their records,
    or returns the records for publishing by hand. It waits until each authoritative server answers
    these records, and lets the new keys sign. The old records stay in DNS for `dkim:retire_after`
    days, for mail that is on its way. Then `withdraw` removes them. No second rotation begins
    before that.

    wait: seconds to wait for the name servers. With 0 they are asked once.
    force: begin a rotation although the keys of the last one are still in DNS.
    Returns {"step", "comment", "signing", "publish"}. step: waiting, switched or retiring.
    signing: the selectors that sign. publish: the records that are not in DNS yet.
    Raises OperatorError on a relay without a domain, or when DNS cannot be read or changed.
    """
    if not settings["dkim_required"]:
        raise OperatorError("a relay that is a bare IP address signs nothing")
    withdraw(settings)
    with signing_state.locked():
        state = signing_state.read_state()
        if state["retired"] and not state["next"] and not force:
            until = ", ".join(key["selector"] for key in state["retired"])
            return _make_step("retiring", f"the last rotation ends when {until} may leave DNS")
        if not state["next"]:
            state["next"] = [_make_next(algorithm) for algorithm in key_files.ALGORITHMS]
            signing_state.save_state(state)
        names = [key["selector"] for key in state["next"]]
        domain = settings["mail_domain"]
        wanted = [make_record(name, domain) for name in names]
        if _publishes(settings):
            publish(settings, [record["name"] for record in wanted])
        problem = wait_for_servers(settings, [record["name"] for record in wanted], wait)
        if problem:
            return _make_step("waiting", f"{problem}; run this again", wanted)
        signing_state.switch(state, names)
        return _make_step("switched", "the new keys sign; the old records stay in DNS for now")


def _make_next(algorithm):
    made = key_files.generate(algorithm=algorithm)
    return {
        "selector": made["selector"],
        "algorithm": algorithm,
        "since": signing_state.now().isoformat(),
    }


def _make_step(step, comment, publish=()):
    return {
        "step": step,
        "comment": comment,
        "signing": [key["selector"] for key in signing_state.read_state()["selectors"]],
        "publish": list(publish),
    }


def _publishes(settings):
    """Return whether this program publishes. With `dns:hook` the Salt module publishes."""
    return bool(settings["dns"]["server"])


def wait_for_servers(settings, names, seconds):
    """Wait until each authoritative server answers the records; return a problem or None."""
    end = time.monotonic() + seconds
    while True:
        found = check(settings, names)
        bad = [
            f"{each['name']} is {each['status']}"
            for each in found["records"]
            if each["status"] != "ok"
        ]
        servers = found["servers"].items()
        bad += [f"{server} {state}" for server, state in servers if state != "answers"]
        if not bad:
            return None
        if time.monotonic() >= end:
            return f"DNS is not ready: {'; '.join(bad)}"
        time.sleep(min(PAUSE, max(0, end - time.monotonic())))


def withdraw(settings):
    """Remove the records of keys that were retired `dkim:retire_after` days ago, then the keys.

    Returns {"withdrawn", "remove"}. withdrawn: the selectors whose keys were removed now. remove:
    the names of TXT records that the operator has to remove first, without `dns:server` and
    `dns:hook`.
    """
    names = list_withdrawn(settings)
    if not names:
        return {"withdrawn": [], "remove": []}
    if _publishes(settings):
        publish(settings, names)
    found = check(settings, names)["records"]
    present = [entry["name"] for entry in found if entry["found"]]
    gone = {name.partition(".")[0] for name in names if name not in present}
    with signing_state.locked():
        state = signing_state.read_state()
        state["retired"] = [key for key in state["retired"] if key["selector"] not in gone]
        signing_state.save_state(state)
        for selector in gone:
            key_files.key_path(selector).unlink(missing_ok=True)
    return {"withdrawn": sorted(gone), "remove": present}


def verify(settings):
    """Check that private keys, signing.json and the TXT records in DNS agree.

    Returns {"result", "problems", "keys"}. result: whether there is no problem. problems: a list of
    sentences. keys: the result of `list`, where each key has "dns" too: ok, missing, wrong or not
    needed, as all authoritative servers answer.
    """
    keys, problems, domain = signing_state.list_keys(), [], settings["mail_domain"]
    answers = _find_in_dns(settings, [record["name"] for record in list_records(settings)])
    for selector, key in keys.items():
        name = name_record(selector, domain)
        key["dns"] = answers.get(name, "not needed")
        if key["dns"] in ("missing", "wrong"):
            problems.append(f"DNS: TXT {name} is {key['dns']}; see `chatmail_dns.check`")
        if key["permissions"] != f"0640 root:{key_files.GROUP}":
            problems.append(
                f"{key_files.key_path(selector)} is {key['permissions']}, expected "
                f"0640 root:{key_files.GROUP}; `chatmail_dkim.protect {selector}` corrects it"
            )
    for entry in signing_state.read_state()["selectors"]:
        if keys[entry["selector"]]["algorithm"] != entry["algorithm"]:
            problems.append(
                f"signing.json says that {entry['selector']} is for {entry['algorithm']}, but the "
                f"key is for {keys[entry['selector']]['algorithm']}; `chatmail_dkim.sign_with` "
                "corrects it"
            )
    if not any(key["status"] == "signing" for key in keys.values()):
        problems.append("no key signs: run `state.apply chatmail.dkim`")
    return {"result": not problems, "problems": problems, "keys": keys}


def _find_in_dns(settings, names):
    """Return {name: status} of TXT records, from the answers of all authoritative servers."""
    if not names:
        return {}
    found = check(settings, names)
    return {entry["name"]: entry["status"] for entry in found["records"]}
