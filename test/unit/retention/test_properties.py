"""Properties of cuts and runs, over random mailboxes."""

import os
import tempfile
import time
from pathlib import Path

from chatmaild.retention.plan import make_expiry_plan
from chatmaild.retention.quota import cut_one
from chatmaild.retention.sweep import sweep as sweep_mailboxes
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.mailbox_tree import (
    DAY,
    DOMAIN,
    settings_for,
    write_message,
)
from support.retention_oracle import (
    MEGABYTE,
    a_mailbox,
    check_against_oracle,
    messages_of,
    quota_size,
    sweep,
)

MESSAGE_STRATEGY = st.tuples(
    st.sampled_from(["cur", "new", "tmp", ".Sent/cur", ".Sent/new"]),
    st.integers(0, 30 * 24),  # hours since arrival
    st.integers(-48, 48),  # hours by which the file's time differs
    st.sampled_from([0, 1000, 200_000, 200_001, 3_000_000]),  # bytes on disk
    st.none() | st.integers(0, 6 * MEGABYTE),  # bytes in the name
)
MAILBOX_STRATEGY = st.tuples(st.integers(0, 100), st.lists(MESSAGE_STRATEGY, max_size=12))
PROPERTY = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def fill(config, mailboxes):
    """Make the generated mailboxes. Half an hour more keeps each age away from the limits."""
    now = time.time()
    for number, (login_days, messages) in enumerate(mailboxes):
        box = a_mailbox(
            config, f"user{number:05d}", login_days=login_days + 0.5, folders=("", ".Sent")
        )
        for serial, (place, hours, shift, disk, size) in enumerate(messages):
            arrival = now - hours * 3600 - 1800
            mtime = arrival + shift * 3600
            write_message(box / place, arrival, serial=serial, disk=disk, size=size, mtime=mtime)


def sized(box):
    """Return {message: (arrival, bytes for the quota)} of a mailbox."""
    return {file: (int(file.name.split(".")[0]), quota_size(file)) for file in messages_of(box)}


def check_least(files, gone, target, now):
    """Assert that a cut took the oldest files, all over a day old, and no more than necessary."""
    kept = files.keys() - gone
    left = sum(files[file][1] for file in kept)
    young = {file for file, (arrival, _) in files.items() if now - arrival < DAY}
    assert not gone & young
    assert left <= target or kept == young
    if gone:
        # One file less would not be enough, and no file that stays is older than one that went.
        youngest = max(gone, key=lambda file: (files[file][0], file.name))
        assert left + files[youngest][1] > target
        assert all(files[file][0] >= files[youngest][0] for file in kept)


@PROPERTY
@given(st.lists(MAILBOX_STRATEGY, max_size=4))
def test_cuts_of_a_run_are_as_small_as_possible(mailboxes):
    with tempfile.TemporaryDirectory() as work:
        config = settings_for(f"{work}/mail", max_mailbox_size=10 * MEGABYTE)
        os.mkdir(config["mailboxes_dir"])
        fill(config, mailboxes)
        top, announced, now = Path(config["mailboxes_dir"]), set(), time.time()
        before = {box: sized(box) for box in top.iterdir()}
        sweep_mailboxes(
            make_expiry_plan(config, True), 1, lambda _, new: announced.update(new.announced)
        )
        sweep(config)
        reasons = {top / path: reason for reason, path in announced}
        for box, files in before.items():
            if reasons.get(box) == "inactive":
                assert not box.exists()
                continue
            past = {file for file in files if reasons.get(file) in ("old", "large")}
            within = {file: files[file] for file in files.keys() - past}
            gone = {file for file in within if reasons.get(file) == "over_quota"}
            assert set(messages_of(box)) == within.keys() - gone
            check_least(within, gone, 7 * MEGABYTE, now)


@PROPERTY
@given(st.lists(MAILBOX_STRATEGY, max_size=4))
def test_run_on_random_mailboxes_does_what_it_announced(mailboxes):
    with tempfile.TemporaryDirectory() as work:
        config = settings_for(f"{work}/mail", max_mailbox_size=10 * MEGABYTE)
        os.mkdir(config["mailboxes_dir"])
        fill(config, mailboxes)
        check_against_oracle(config)


@PROPERTY
@given(MAILBOX_STRATEGY, st.integers(0, 20 * MEGABYTE))
def test_cut_of_a_random_mailbox_is_as_small_as_possible(mailbox, target):
    with tempfile.TemporaryDirectory() as work:
        config = settings_for(f"{work}/mail")
        fill(config, [mailbox])
        box = Path(config["mailboxes_dir"], f"user00000@{DOMAIN}")
        files, now = sized(box), time.time()
        dry = cut_one(config, box.name, target, dry_run=True)
        done = cut_one(config, box.name, target)
        kept = set(messages_of(box))
        assert done["before"] == sum(size for _, size in files.values())
        assert done["after"] == sum(files[file][1] for file in kept)
        assert done | {"dry_run": True} == dry
        check_least(files, files.keys() - kept, target, now)
