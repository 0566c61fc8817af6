"""One pass over all mailboxes."""

import fcntl
import itertools
import os
import re

from chatmaild.common.errors import OperatorError
from chatmaild.retention.mailbox import open_mailboxes_dir
from chatmaild.retention.notifications import has_no_mailbox, remove_pending
from chatmaild.retention.plan import is_address
from chatmaild.retention.removal import remove_tree, visit
from chatmaild.retention.tally import Tally

LEFT_ASIDE = re.compile(r"\.expired-[0-9a-f]{16}")
BATCH = 256  # mailboxes that a worker takes at once


def sweep(plan, workers=1, watch=None):
    """Go once over all mailboxes; return the numbers that `chatmail_expire.run` describes.

    workers: the number of processes.
    watch: a function of two Tallies: the sums so far, and those of the newest batch.
    """
    plan, total = plan._replace(announces=plan.dry_run and watch is not None), Tally()
    with open_mailboxes_dir(plan) as root:
        if plan.expires:
            _lock(root, plan)
        batches = _make_batches(_list_names(plan, root, total))
        for tally in _work_in_batches(plan, batches, workers):
            total.add(tally)
            if watch:
                watch(total, tally)
        if plan.expires:
            _remove_leftovers(root, total)
            total.removed_notifications = remove_pending(
                plan.pending_dir, lambda address: has_no_mailbox(plan, root, address), total
            )
    return {"dry_run": plan.dry_run, **total.as_dict()}


def _lock(root, plan):
    """Keep a second run from removing the mailboxes that this run has set aside."""
    try:
        fcntl.flock(root, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise OperatorError(
            f"another run is at work in {plan.mailboxes_dir}. Wait until it has ended."
        ) from error


def _list_names(plan, root, tally):
    """Yield the names of the mailboxes, and count other entries."""
    with os.scandir(root) as entries:
        for entry in entries:
            if is_address(entry.name, plan.domain) and entry.is_dir(follow_symlinks=False):
                yield entry.name
            elif not LEFT_ASIDE.fullmatch(entry.name):
                tally.passed_over["strange"] += 1


def _make_batches(names):
    while batch := list(itertools.islice(names, BATCH)):
        yield batch


def _work_in_batches(plan, batches, workers):
    """Yield the Tally of each batch as soon as it is ready."""
    if workers == 1:
        yield from (_sweep_batch(plan, batch) for batch in batches)
        return
    # These imports are here because a quota warning does not need them. Forked workers share the
    # memory of this process.
    from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
    from multiprocessing import get_context

    with ProcessPoolExecutor(workers, mp_context=get_context("fork")) as pool:
        waiting = set()
        for batch in batches:
            waiting.add(pool.submit(_sweep_batch, plan, batch))
            if len(waiting) > 2 * workers:
                done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in done)
        yield from (future.result() for future in waiting)


def _sweep_batch(plan, names):
    """Do what the plan says in a batch of mailboxes; return its Tally."""
    tally = Tally()
    with open_mailboxes_dir(plan) as root:
        for name in names:
            visit(plan, tally, root, name)
    return tally


def _remove_leftovers(root, tally):
    """Remove the mailboxes that an interrupted run has set aside."""
    with os.scandir(root) as entries:
        for entry in entries:
            if LEFT_ASIDE.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False):
                remove_tree(root, entry.name, tally)
