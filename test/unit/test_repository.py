"""Rules of this repository that otherwise a reviewer would have to check."""

import ast
import re
from pathlib import Path

import pytest
import yaml
from support import settings_documents
from support.settings import settings

ROOT = Path(__file__).resolve().parents[2]

SLS = sorted((ROOT / "chatmail").rglob("*.sls"))
TEMPLATES = sorted(each for each in (ROOT / "chatmail").rglob("*.j*nja*") if each.is_file())
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *ROOT.glob("test/**/*.md")])
PACKAGE = "chatmail/program/files/chatmaild"
# Salt's own convention: a first line of #!py says that the file is Python.
PYTHON_SLS = [each for each in SLS if each.read_text().startswith("#!py")]


def relative(path):
    return str(path.relative_to(ROOT))


def public_functions(kind):
    """Return (file, function) of each function that Salt offers."""
    found = []
    for path in sorted((ROOT / kind).glob("*.py")):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
                found.append(pytest.param(node, id=f"{path.stem}.{node.name}"))
    return found


@pytest.mark.parametrize("function", public_functions("_modules") + public_functions("_runners"))
def test_function_that_an_operator_calls_shows_how(function):
    docstring = ast.get_docstring(function) or ""
    assert "CLI Example:" in docstring
    assert re.search(r"\n {4,}(sudo )?salt(-call|-run|-ssh)? ", docstring), "no command is shown"


def aliases(path):
    """Return {name in Python: name that Salt offers} of a module."""
    found = re.search(r"^__func_alias__ = (\{.*\})$", path.read_text(), re.MULTILINE)
    return ast.literal_eval(found[1]) if found else {}


@pytest.mark.parametrize("path", DOCUMENTS, ids=relative)
def test_function_that_a_document_names_exists(path):
    known = {
        f"{module.stem}.{aliases(module).get(node.name, node.name)}"
        for kind in ("_modules", "_runners", "_states")
        for module in (ROOT / kind).glob("*.py")
        for node in ast.parse(module.read_text()).body
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")
    }
    named = set(re.findall(r"\bchatmail_[a-z]+\.[a-z_]+", path.read_text()))
    assert {name for name in named - known if not name.endswith(".py")} == set()


def inline_code(path):
    """Return the texts between backticks in a document, and the lines of its code blocks."""
    text = path.read_text()
    blocks = re.findall(r"^ *```[a-z]*\n(.*?)^ *```", text, re.MULTILINE | re.DOTALL)
    indented = re.findall(r"^    (.*)", text, re.MULTILINE)
    return [
        *re.findall(r"`([^`\n]+)`", text),
        *(line.strip() for block in blocks for line in block.splitlines()),
        *indented,
    ]


@pytest.mark.parametrize("path", DOCUMENTS, ids=relative)
def test_line_of_a_document_has_at_most_120_characters(path):
    """Rows of tables and lines of code are exceptions, because they cannot be wrapped."""
    text = re.sub(r"^ *```.*?^ *```", "", path.read_text(), flags=re.MULTILINE | re.DOTALL)
    lines = [line for line in text.splitlines() if not line.startswith(("|", "    "))]
    assert [line for line in lines if len(line) > 120] == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=relative)
def test_link_of_a_document_leads_to_a_file(path):
    targets = re.findall(r"\]\(([^)#\s]+)[^)]*\)", path.read_text())
    local = [target for target in targets if "://" not in target]
    assert [target for target in local if not (path.parent / target).exists()] == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=relative)
def test_file_that_a_document_names_exists(path):
    """The test looks only at folders of the repository. `/etc/…` is on a machine."""
    code = "\n".join(inline_code(path))
    folders = "_beacons|_modules|_output|_runners|_states|_utils|chatmail|docs|test"
    named = set(re.findall(rf"(?<![\w/.:])(?:{folders})/[\w./-]*\w", code))
    # A document names a file of the package by its path there, such as `filter/rules.py`.
    package_file = rf"(?<![\w/.:-])(?!(?:{folders})/)[a-z]+/\w+\.py\b"
    named |= {f"{PACKAGE}/{name}" for name in re.findall(package_file, code)}
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=relative)
def test_pillar_that_a_document_shows_is_accepted(path):
    """A block without `mail_domain` is only a part of a pillar."""
    for block in re.findall(r"^```yaml\n(.*?)^```", path.read_text(), re.MULTILINE | re.DOTALL):
        shown = yaml.safe_load(block)
        if "chatmail" in shown:
            pillar = {"mail_domain": "chat.example.org", **shown["chatmail"]}
            settings.resolve({"chatmail": pillar}, {"os": "Debian", "osmajorrelease": 13})


@pytest.mark.parametrize("path", DOCUMENTS, ids=relative)
def test_states_that_a_document_applies_exist(path):
    known = {relative(sls)[: -len(".sls")].removesuffix("/init").replace("/", ".") for sls in SLS}
    named = re.findall(r"state\.apply (chatmail(?:\.\w+)*)", path.read_text())
    assert set(named) - known == set()


@pytest.mark.parametrize("path", DOCUMENTS, ids=relative)
def test_target_that_a_document_names_is_in_the_makefile(path):
    targets = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {
        word
        for code in inline_code(path)
        for words in re.findall(r"^make((?: [a-z]+\b(?!=))+)", code)
        for word in words.split()
    }
    assert named - targets == set()


@pytest.mark.parametrize("function", public_functions("_states"))
def test_state_is_explained(function):
    assert ast.get_docstring(function)


@pytest.mark.parametrize("path", SLS, ids=relative)
def test_sls_opens_with_what_it_is(path):
    opening = '#!py\n"""' if path in PYTHON_SLS else "{#-"
    assert path.read_text().startswith(opening)


@pytest.mark.parametrize("path", [*SLS, *TEMPLATES], ids=relative)
def test_values_come_from_the_settings_and_not_from_pillar_or_grains(path):
    text = path.read_text()
    for forbidden in (
        r"pillar\.get",
        r"pillar\[",
        r"config\.get",
        r"grains\.(get|item)",
        r"grains\[",
    ):
        assert not re.search(forbidden, text), f"{forbidden}: add it to chatmail/settings.py"


@pytest.mark.parametrize("path", TEMPLATES, ids=relative)
def test_template_calls_no_salt_function(path):
    """salt-ssh sends only files that the low state names, so templates need context instead."""
    if path.name in ("settings.jinja", "plan.jinja", "asked.jinja"):
        return  # They are no templates: states import them.
    assert not re.search(r"\bsalt[.\[]", path.read_text())


def test_no_test_file_imports_from_another():
    """Shared code is in test/support/, so each test file can run and move alone."""
    importing = [
        relative(path)
        for path in (ROOT / "test").rglob("*.py")
        if re.search(
            r"^\s*(from|import) (relay|salt|unit|bench)\S*\.test_\w+",
            path.read_text(),
            re.MULTILINE,
        )
    ]
    assert importing == []


def test_version_of_the_formula_is_the_newest_release_of_the_changelog():
    formula = yaml.safe_load((ROOT / "FORMULA").read_text())
    releases = re.findall(r"^## \[?v?([0-9][^\s\]]*)", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert str(formula["version"]) == releases[0]
    # The relays do not have the file FORMULA, so they know the version from here.
    assert str(formula["version"]) == settings.FORMULA


# Generated documents.


@pytest.mark.parametrize("path", settings_documents.documents(), ids=relative)
def test_document_of_the_settings_is_what_make_documents_writes(path):
    assert path.read_text() == settings_documents.documents()[path]


def test_settings_of_a_group_stand_together():
    """If a group began twice, the pillar would have a key twice, and YAML silently keeps one."""
    groups = [key.name.rpartition(":")[0] for key in settings.KEYS]
    begun = [group for group, before in zip(groups, ["", *groups], strict=False) if group != before]
    named = [group for group in begun if group]
    assert sorted(set(named)) == sorted(named)


def test_each_setting_has_a_name_of_its_own_and_a_meaning_in_sentences():
    names = [key.name for key in settings.KEYS]
    assert sorted(set(names)) == sorted(names)
    assert [key.name for key in settings.KEYS if not key.meaning.endswith(".")] == []
    assert settings.KEYS[0].section, "the documents begin with a heading"


# pillar.example


def example():
    return yaml.safe_load((ROOT / "pillar.example").read_text())["chatmail"]


def test_example_pillar_has_exactly_the_keys_of_the_settings():
    nested = {name for name, value in example().items() if isinstance(value, dict)}
    shown = {name for name in example() if name not in nested}
    shown |= {f"{group}:{name}" for group in nested for name in example()[group]}
    assert shown == {key.name for key in settings.KEYS}


@pytest.mark.parametrize("release", [12, 13])
def test_example_pillar_resolves_to_the_defaults(release):
    grains = {"os": "Debian", "osmajorrelease": release}
    domain = {"mail_domain": example()["mail_domain"]}
    assert settings.resolve({"chatmail": example()}, grains) == settings.resolve(
        {"chatmail": domain}, grains
    )


def test_every_key_of_the_example_pillar_is_explained():
    lines = (ROOT / "pillar.example").read_text().splitlines()
    keys = [number for number, line in enumerate(lines) if re.match(r" +[a-z_0-9]+:", line)]
    # The comment is above the key, or above the key before it, which shares the comment.
    unexplained = [
        lines[number]
        for number in keys
        if not lines[number - 1].lstrip().startswith("#") and number - 1 not in keys
    ]
    assert unexplained == []


@pytest.mark.parametrize(
    "path", sorted((ROOT / "chatmail").rglob("files/chatmail-*.service*")), ids=relative
)
def test_unit_of_ours_has_a_limit_of_memory_and_says_why(path):
    """A service that grows because of a hostile peer must not use up the machine's memory."""
    assert re.search(
        r"^# [^\n]*\d+ [^\n]*MB[^\n]*\n(#[^\n]*\n)*MemoryMax=\d+M$", path.read_text(), re.M
    )


def test_transport_gets_all_recipients_of_a_message_at_once():
    """With two transactions, a domain with recipients in both would get two copies."""
    main_cf = (ROOT / "chatmail/postfix/files/main.cf.jinja").read_text()
    limits = dict(re.findall(r"^(\w+_recipient_limit) = (\d+)$", main_cf, re.M))
    assert limits["chatmail_destination_recipient_limit"] == limits["smtpd_recipient_limit"]


# certbot may write files where the operator wants them, also below /home.
@pytest.mark.parametrize(
    "path",
    [
        path
        for path in sorted((ROOT / "chatmail").rglob("files/chatmail-*.service*"))
        if path.name != "chatmail-certificate.service"
    ],
    ids=relative,
)
def test_unit_of_ours_sees_no_home_but_the_mailboxes(path):
    unit = path.read_text()
    [home] = re.findall(r"^ProtectHome=(.*)$", unit, re.M)
    bound = re.findall(r"^Bind(?:ReadOnly)?Paths=(.*)$", unit, re.M)
    assert (home, bound) in [("yes", []), ("tmpfs", ["{{ relay.mailboxes_dir }}"])]


def test_file_of_code_has_at_most_400_lines():
    """chatmail/settings.py may be longer, because of its table (docs/architecture.md)."""
    folders = (
        "chatmail",
        "_beacons",
        "_modules",
        "_output",
        "_states",
        "_runners",
        "_utils",
        "test",
    )
    lengths = {
        relative(path): len(path.read_text().splitlines())
        for folder in folders
        for path in (ROOT / folder).rglob("*.py")
    }
    del lengths["chatmail/settings.py"]
    assert {name: length for name, length in lengths.items() if length > 400} == {}


def test_packages_are_installed_by_our_own_state():
    """chatmail_package calls apt once, and without what packages recommend."""
    found = {
        relative(path)
        for path in (ROOT / "chatmail").rglob("*.sls")
        if "pkg.installed:" in path.read_text()
    }
    assert found == set()
