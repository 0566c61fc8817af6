"""The operator's own certificate, on real files."""

import os
import shutil
from pathlib import Path

import pytest
from salt.exceptions import CommandExecutionError
from support.certificates import belong_together, contents, in_use, same

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="files of root need root")


def test_external_pair_is_put_in_use_once(external, make, module):
    make("tls")
    paths = make("theirs")
    announced = external(paths, test=True)
    assert announced["result"] is None
    assert not same(module, paths)
    done = external(paths)
    assert (done["result"], done["changes"]) == (True, announced["changes"])
    assert same(module, paths)
    assert "PRIVATE" not in str(done)
    for test in (True, False):
        again = external(paths, test=test)
        assert (again["result"], again["changes"]) == (True, {})


def test_pair_is_swapped_as_a_whole_however_far_a_run_gets(salt_modules, make, module, monkeypatch):
    """The test interrupts a run at each rename. The pair in use is then the old or the new one."""
    for first in ("plain files", "links"):
        for step in range(12):
            shutil.rmtree(module["TLS"], ignore_errors=True)
            old, new = make("tls"), make("theirs")
            if first == "links":
                salt_modules["chatmail_certificate.install"](*make("before"))
                old = make("before")
            real, calls = Path.replace, []

            def replace(self, target, real=real, calls=calls, step=step):
                if len(calls) == step:
                    raise OSError("power failure")
                calls.append(target)
                return real(self, target)

            before = contents(in_use(module))
            with monkeypatch.context() as patch:
                patch.setattr(Path, "replace", replace)
                finished = True
                try:
                    salt_modules["chatmail_certificate.install"](*new)
                except CommandExecutionError:
                    finished = False
            belong_together(in_use(module))
            assert same(module, new) or contents(in_use(module)) == before
            assert old
            if finished:
                assert same(module, new)
                break
        else:
            pytest.fail("more renames than expected")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda paths: os.unlink(paths[1]), "privkey.pem cannot be read: No such file"),
        (lambda paths: os.unlink(paths[0]), "fullchain.pem cannot be read: No such file"),
        (lambda paths: Path(paths[0]).write_text("junk"), "cannot be used: expected a PEM"),
        (lambda paths: Path(paths[1]).write_text(""), "cannot be used: expected a PEM"),
    ],
    ids=["no key", "no certificate", "no PEM", "empty key"],
)
@pytest.mark.parametrize("test", [True, False])
def test_unusable_external_pair_is_refused_and_the_old_one_stays(
    external, make, module, damage, message, test
):
    make("tls")
    before = contents(in_use(module))
    paths = make("theirs")
    damage(paths)
    refused = external(paths, test=test)
    assert (refused["result"], refused["changes"]) == (False, {})
    assert message in refused["comment"]
    assert contents(in_use(module)) == before


def test_key_of_another_certificate_is_refused(external, make):
    certificate, key = make("one")[0], make("two")[1]
    refused = external([certificate, key])
    assert refused["result"] is False
    assert "do not belong together" in refused["comment"]


def test_external_certificate_for_other_names_is_used_with_a_warning(external, make):
    done = external(make("theirs", names=["other.example.org"]))
    assert done["result"] is True
    assert "does not name chat.example.org" in done["warnings"][0]


def test_self_signed_repairs_a_pair_behind_links_in_its_place(salt_modules, make, module):
    salt_modules["chatmail_certificate.install"](*make("theirs"))
    (module["TLS"] / "privkey.pem").write_text("junk")
    make("tls", placeholder=True)
    belong_together(in_use(module))
    assert (module["TLS"] / "privkey.pem").is_symlink()
