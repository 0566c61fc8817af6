"""The configuration of the example relays, as Salt renders it, against `test/reference`."""

import difflib
import logging

import pytest
from support import reference

# On the machine, the files of these templates have other names.
RENAMED = {"dovecot-2.3.conf", "dovecot-2.4.conf", "coturn.conf", "restart.conf"}


@pytest.fixture(scope="module")
def rendered():
    # Salt's thousands of debug lines would hide the message of a failure.
    logging.disable(logging.INFO)
    yield reference.render_all()
    logging.disable(logging.NOTSET)


def difference(stored, rendered):
    """Return a diff of two {path: text}. A path that only one has appears with its whole text."""
    lines = []
    for path in sorted(stored.keys() | rendered.keys()):
        before, after = (files.get(path, "").splitlines() for files in (stored, rendered))
        names = f"reference/{path}", f"rendered/{path}"
        lines += difflib.unified_diff(before, after, *names, n=2, lineterm="")
    return "\n".join(lines)


def test_rendered_configuration_is_the_reference(rendered):
    """`make reference` writes the files again, and the diff of the commit shows the change."""
    if changed := difference(reference.stored(), rendered):
        pytest.fail(f"not what the templates give; run make reference\n{changed}", pytrace=False)


def test_every_template_of_a_machine_is_in_the_reference(rendered):
    """A template that no example renders would have no reference."""
    templates = {
        template.name.removesuffix(".jinja")
        for template in (reference.ROOT / "chatmail").glob("*/files/*.jinja")
    }
    assert templates - RENAMED <= {path.rpartition("/")[2] for path in rendered}
