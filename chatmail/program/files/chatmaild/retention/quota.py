"""The cut of one mailbox, for Dovecot's quota warning and for the operator."""

import os

from chatmaild.common.errors import OperatorError
from chatmaild.retention.mailbox import OPEN_DIRECTORY, Mailbox, open_mailboxes_dir
from chatmaild.retention.plan import check_target, find_mailbox_name, make_report_plan
from chatmaild.retention.tally import Tally


def cut_one(settings, path, target=None, dry_run=False, watch=None):
    """Cut one mailbox; return the numbers that `chatmail_expire.quota` describes."""
    plan, tally = make_report_plan(settings), Tally()
    plan = plan._replace(
        target=check_target(settings, target),
        dry_run=dry_run,
        announces=dry_run and watch is not None,
    )
    name = find_mailbox_name(settings, path)
    with open_mailboxes_dir(plan) as root:
        try:
            fd = os.open(name, OPEN_DIRECTORY, dir_fd=root)
        except OSError as error:
            raise OperatorError(f"cannot open the mailbox {path!r}: {error.strerror}") from error
        try:
            mailbox = Mailbox(plan, tally, name, fd)
            mailbox.scan()
            before = mailbox.quota_bytes
            mailbox.cut()
            mailbox.finish()
        finally:
            os.close(fd)
    if watch:
        watch(tally, tally)
    result = {"dry_run": dry_run, "before": before, "after": mailbox.quota_bytes}
    shared = ("removed", "removed_bytes", "passed_over")
    return result | {key: value for key, value in tally.as_dict().items() if key in shared}
