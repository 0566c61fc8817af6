"""The report in the mine, by Salt's own mine: a minion without a master keeps it in its cache."""

import json
import os
import time

from bench.expire_tree import DOMAIN, make_mailbox, settings_for, write_message


def test_report_goes_into_the_mine_and_comes_back(salt_opts, salt_modules, tmp_path):
    top, relay_json = tmp_path / "mail", tmp_path / "relay.json"
    relay_json.write_text(json.dumps(settings_for(top)), encoding="utf-8")
    box = make_mailbox(top, f"user00001@{DOMAIN}", login=time.time())
    write_message(f"{box}/cur", time.time(), disk=2048)
    os.makedirs(salt_opts["cachedir"])
    # As in docs/retention.md, but for the settings' place.
    salt_opts["mine_functions"] = {"chatmail_expire.report": [{"config": str(relay_json)}]}
    assert salt_modules["mine.update"]()
    stored = salt_modules["mine.get"]("*", "chatmail_expire.report")
    report = salt_modules["chatmail_expire.report"](config=str(relay_json))
    assert stored == {"relay": report}
    assert report["accounts"]["all"] == report["messages_count"]["0"] == 1
    assert DOMAIN not in json.dumps(stored)
