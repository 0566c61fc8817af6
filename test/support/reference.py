"""Renders the configuration of three example relays into `test/reference`.

Salt itself renders the states of `chatmail` and the templates that they name, with the pillars in
`test/reference/pillars` and grains that are the same everywhere. `make reference` writes the files;
`test/salt/test_reference.py` compares them.
"""

import json
import tempfile
from pathlib import Path

import salt.config
import salt.loader
import salt.utils.templates
import yaml

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = ROOT / "test" / "reference"
PILLARS = REFERENCE / "pillars"
RELEASES = (12, 13)
SAME = "both-releases"
GRAINS = {
    "os": "Debian",
    "os_family": "Debian",
    "kernel": "Linux",
    "cpuarch": "x86_64",
    "ipv4": ["127.0.0.1", "10.0.0.5"],
}


def render_all():
    """Return {path below test/reference: text} of all reference files."""
    files = {}
    for pillar in sorted(PILLARS.glob("*.yaml")):
        with tempfile.TemporaryDirectory() as directory:
            by_release = {
                release: rendered_files(
                    yaml.safe_load(pillar.read_text()), release, Path(directory)
                )
                for release in RELEASES
            }
        for release, rendered in by_release.items():
            for path, text in rendered.items():
                same = all(other.get(path) == text for other in by_release.values())
                folder = SAME if same else f"debian-{release}"
                files[f"{folder}/{pillar.stem}{path}"] = text
    return files


def rendered_files(pillar, release, directory):
    """Return {path on the machine: text} of the files that the states of `chatmail` render.

    pillar: the whole pillar. release: of Debian, 12 or 13. directory: for Salt's own files.
    """
    opts, modules = make_minion(pillar, release, directory)
    states = modules["state.show_low_sls"]("chatmail")
    if not all(isinstance(each, dict) for each in states):
        raise RuntimeError("\n".join(map(str, states)))
    files = {}
    for state in states:
        if (text := _text(state, opts, modules)) is not None:
            files[state["name"]] = text
    return files


def make_minion(pillar, release, directory):
    """Return the options and the execution modules of a minion with this pillar and release."""
    roots, own = directory / "roots", directory / "own"
    for each in (roots, own):
        each.mkdir(exist_ok=True)
    # The repository itself as a root would make Salt walk through .venv.
    for link, target in (
        (roots / "chatmail", "chatmail"),
        (roots / "_modules", "_modules"),
        (roots / "_states", "_states"),
        (own / "modules", "_modules"),
        (own / "states", "_states"),
    ):
        if not link.is_symlink():
            link.symlink_to(ROOT / target)
    opts = salt.config.apply_minion_config(
        {
            "id": "relay",
            "root_dir": str(directory),
            "extension_modules": str(own),
            "file_client": "local",
            "fileserver_followsymlinks": True,
            "file_roots": {"base": [str(roots)]},
        }
    )
    opts.update(grains={**GRAINS, "osmajorrelease": release}, pillar=pillar, test=False)
    return opts, salt.loader.minion_mods(opts, utils=salt.loader.utils(opts))


def _text(state, opts, modules):
    """Return the text of the file that a state renders, None if it renders none."""
    if state["state"] != "file":
        return None
    if state["fun"] == "serialize":
        return json.dumps(state["dataset"], indent=2, sort_keys=True) + "\n"
    if state["fun"] == "managed" and "contents" in state:
        contents = state["contents"]
        return "\n".join([contents] if isinstance(contents, str) else contents) + "\n"
    if state["fun"] == "managed" and state.get("template") == "jinja":
        rendered = salt.utils.templates.JINJA(
            str(ROOT / state["source"].removeprefix("salt://")),
            to_str=True,
            saltenv="base",
            context=state["context"],
            salt=modules,
            pillar=opts["pillar"],
            grains=opts["grains"],
            opts=opts,
        )
        if not rendered["result"]:
            raise RuntimeError(f"{state['source']}: {rendered['data']}")
        return rendered["data"]
    return None


def stored():
    """Return {path below test/reference: text} of the reference files in the repository."""
    folders = [REFERENCE / SAME, *(REFERENCE / f"debian-{release}" for release in RELEASES)]
    return {
        path.relative_to(REFERENCE).as_posix(): path.read_text()
        for folder in folders
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def write(files):
    """Write these files to `test/reference`, and delete all other files there."""
    for path in stored().keys() - files.keys():
        (REFERENCE / path).unlink()
    for path, text in files.items():
        target = REFERENCE / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)


if __name__ == "__main__":
    write(render_all())
