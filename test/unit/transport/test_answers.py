"""A host's reply as it is passed on, at the borders of a class of codes."""

import pytest
from chatmaild.transport.smtp_protocol import Reply, answer_from


@pytest.mark.parametrize("code", [200, 250, 299, 400, 450, 499, 500, 550, 599])
def test_status_of_the_codes_class_is_passed_on_and_no_other(code):
    kind = code // 100
    for status in ("2.1.5", "4.1.5", "5.1.5"):
        line = answer_from(Reply(code, (f"{status} x",)), "mx").line()
        if status.startswith(str(kind)):
            assert line == f"{code} {status} mx said: {code} x"
        else:
            assert line == f"{code} {kind}.0.0 mx said: {code} {status} x"
