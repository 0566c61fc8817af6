"""Compiles states with Salt's own compiler, without a machine.

A compiled .sls has all its requisites resolved. Nothing is applied.
"""

import contextlib
import tempfile
from pathlib import Path

import salt.state
from support import reference

ROOT = Path(__file__).resolve().parents[2]


def sls_names():
    """Return the names of all .sls files of the formula, as `state.apply` takes them.

    Those of `chatmail/fleet/` are for `state.orchestrate` on a master.
    """
    paths = [p for p in (ROOT / "chatmail").rglob("*.sls") if p.parent.name != "fleet"]
    names = (path.relative_to(ROOT).with_suffix("").as_posix() for path in paths)
    return sorted(name.removesuffix("/init").replace("/", ".") for name in names)


@contextlib.contextmanager
def compiler(chatmail, release=13):
    """Yield compile(*sls), which compiles these .sls files together.

    chatmail: the pillar `chatmail`. release: of Debian, 12 or 13.
    compile returns Salt's low data: one dictionary for each state. If an .sls does not render, or
    a requisite names no state, compile raises ValueError with Salt's message.
    """
    with tempfile.TemporaryDirectory() as directory:
        opts, _modules = reference.make_minion({"chatmail": chatmail}, release, Path(directory))
        opts["saltenv"] = "base"
        yield lambda *sls: _compile(opts, list(sls))


def _compile(opts, sls):
    with salt.state.HighState(opts, initial_pillar=opts["pillar"]) as highstate:
        highstate.push_active()
        try:
            high, errors = highstate.render_highstate({"base": sls})
        finally:
            highstate.pop_active()
        if not errors:
            high, errors = highstate.state.reconcile_extend(high)
            errors = errors + highstate.state.verify_high(high)
            high, wrong = highstate.state.requisite_in(high)
            errors += wrong
        chunks, wrong = ([], []) if errors else highstate.state.compile_high_data(high)
        if errors or wrong:
            raise ValueError("\n".join(map(str, [*errors, *wrong])))
        return chunks
