"""The command line of retention. Timers run it, and Dovecot runs it when a mailbox is nearly full.

Each quota warning starts this program. So a command imports only what it needs, and only modules of
the standard library.
"""

import argparse
import json
import os
import sys

from chatmaild.common.errors import OperatorError
from chatmaild.common.settings import SETTINGS, load_settings
from chatmaild.retention.plan import make_expiry_plan, make_report_plan
from chatmaild.retention.tally import MESSAGE_REASONS


def main(arguments=None):
    """Run the command in the arguments; return the exit status."""
    options = _make_parser().parse_args(arguments)
    watch = _make_watch(options)
    try:
        settings = load_settings(options.config)
        result = COMMANDS[options.command](settings, options, watch)
        if sys.stderr.isatty():
            print(file=sys.stderr)  # This ends the progress line.
        if options.prometheus and not options.dry_run:
            from chatmaild.retention.prometheus import write_metrics

            write_metrics(options.prometheus, options.command, result)
    except OperatorError as error:
        print(f"chatmaild.retention: {error}", file=sys.stderr)
        return 1
    if not options.quiet:
        from chatmaild.retention.report import describe

        print(json.dumps(result) if options.json else describe(options.command, result))
    return 0


def _run_expiry(settings, options, watch):
    from chatmaild.retention.sweep import sweep

    return sweep(make_expiry_plan(settings, options.dry_run), _count_workers(), watch)


def _cut_mailbox(settings, options, watch):
    from chatmaild.retention.quota import cut_one

    return cut_one(settings, options.path, options.target, options.dry_run, watch)


def _make_report(settings, _options, watch):
    from chatmaild.retention.sweep import sweep

    return sweep(make_report_plan(settings), _count_workers(), watch)["report"]


COMMANDS = {"run": _run_expiry, "quota": _cut_mailbox, "report": _make_report}


def _make_parser():
    parser = argparse.ArgumentParser(
        prog="chatmaild.retention", description="Expire mail, cut full mailboxes, report."
    )
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--config", default=SETTINGS, help="the relay's settings (%(default)s)")
    shared.add_argument("--json", action="store_true", help="print the numbers as JSON")
    dry = argparse.ArgumentParser(add_help=False)
    dry.add_argument("--dry-run", action="store_true", help="remove nothing, list what would go")
    metrics = argparse.ArgumentParser(add_help=False)
    metrics.add_argument(
        "--prometheus", metavar="DIRECTORY", help="also write the numbers for Prometheus there"
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("run", parents=[shared, dry, metrics], help="the daily run")
    cut = commands.add_parser("quota", parents=[shared, dry], help="cut one mailbox")
    cut.add_argument("path", help="an address, or its directory in mailboxes_dir")
    cut.add_argument("target", nargs="?", help="bytes to keep (70 %% of max_mailbox_size)")
    # Dovecot does not read the output of a quota warning, and would log a broken pipe.
    cut.add_argument("--quiet", action="store_true", help="print nothing but errors")
    commands.add_parser("report", parents=[shared, metrics], help="count addresses and mail")
    parser.set_defaults(dry_run=False, prometheus=None, quiet=False)
    return parser


def _count_workers():
    """Return the number of processes of a sweep: one for each CPU, and at most four."""
    return min(4, len(os.sched_getaffinity(0)))


def _make_watch(options):
    """Return a function that prints the entries of a dry run, and the progress on a terminal.

    Returns None when neither is printed. A dry run then need not collect names.
    """
    progress = sys.stderr.isatty()
    if options.json and not progress:
        return None

    def watch(total, newest):
        if not options.json:
            for reason, path in newest.announced:
                # A name may contain line ends or control characters, so it is printed escaped.
                print(f"would remove ({reason}): {path!a}")
        if progress:
            messages = sum(total.removed[reason] for reason in MESSAGE_REASONS)
            print(
                f"\r{total.mailboxes} mailboxes seen, {total.removed['inactive']} removed,"
                f" {messages} messages removed ",
                end="",
                file=sys.stderr,
                flush=True,
            )

    return watch


if __name__ == "__main__":
    sys.exit(main())
