"""The operator's own web pages."""

import pytest
from support.website import build, pages, settings, words


@pytest.fixture
def folder(tmp_path):
    """Return a folder with one page of the operator."""
    path = tmp_path / "www"
    path.mkdir()
    (path / "index.md").write_text("# Hi from {{ relay.mail_domain }}\n\n{{ invite }}\n")
    return path


def test_www_folder_disabled_leaves_the_well_known_files_only():
    assert sorted(pages(www_folder="disabled")) == [
        ".well-known/autoconfig/mail/config-v1.1.xml",
        ".well-known/mta-sts.txt",
    ]


def test_www_folder_markdown_is_rendered_and_other_files_are_copied(folder):
    (folder / "about").mkdir()
    (folder / "about" / "us.md").write_text("# Who we are\n\nThree friends.\n")
    (folder / "rules.html").write_text("<p>{{ as it is }}</p>")
    (folder / "photo.png").write_bytes(b"\x89PNG\xff")
    built = build.build(settings(www_folder=str(folder)))
    index = built["index.html"].decode()
    assert "Hi from chat.example.org" in words(index)
    assert 'href="DCACCOUNT:https://chat.example.org/new"' in index
    assert 'href="/privacy"' not in index
    assert "<title>Who we are · chat.example.org</title>" in built["about/us.html"].decode()
    assert built["rules.html"] == b"<p>{{ as it is }}</p>"
    assert built["photo.png"] == b"\x89PNG\xff"
    assert "index.md" not in built
    assert "privacy.html" not in built


def test_www_folder_may_replace_our_style_but_not_the_policy(folder):
    (folder / "style.css").write_text("body {}")
    (folder / ".well-known").mkdir()
    (folder / ".well-known" / "mta-sts.txt").write_text("mode: none")
    (folder / ".well-known" / "security.txt").write_text("Contact: mailto:a@example.org")
    built = build.build(settings(www_folder=str(folder)))
    assert built["style.css"] == b"body {}"
    assert b"mode: enforce" in built[".well-known/mta-sts.txt"]
    assert built[".well-known/security.txt"] == b"Contact: mailto:a@example.org"


def test_www_folder_hidden_files_are_not_published(folder):
    (folder / ".git").mkdir()
    (folder / ".git" / "config").write_text("secret")
    (folder / ".index.md.swp").write_text("secret")
    assert not [
        name
        for name in build.build(settings(www_folder=str(folder)))
        if "git" in name or "swp" in name
    ]


def test_www_folder_symlink_is_refused(folder):
    (folder / "key.pem").symlink_to("/etc/hostname")
    with pytest.raises(build.WebsiteError, match=r"key\.pem is no plain file"):
        build.build(settings(www_folder=str(folder)))


def test_www_folder_missing_is_refused_with_the_next_step(tmp_path):
    with pytest.raises(build.WebsiteError, match="no folder on this machine: put your pages there"):
        build.build(settings(www_folder=str(tmp_path / "nowhere")))


def test_www_folder_without_an_index_page_is_refused(tmp_path):
    with pytest.raises(build.WebsiteError, match=r"neither index\.md nor index\.html"):
        build.build(settings(www_folder=str(tmp_path)))


def test_www_folder_with_two_sources_of_a_page_is_refused(folder):
    (folder / "index.html").write_text("<p>")
    with pytest.raises(
        build.WebsiteError, match=r"index\.md and index\.html would be the same page"
    ):
        build.build(settings(www_folder=str(folder)))


@pytest.mark.parametrize(
    "text", ["{{ nothing }}", "{% if %}", "{{ relay.nothing }}", "{{ relay.__class__.mro() }}"]
)
def test_www_folder_page_that_does_not_render_is_named(folder, text):
    (folder / "broken.md").write_text(text)
    with pytest.raises(build.WebsiteError, match=r"page broken\.md does not render"):
        build.build(settings(www_folder=str(folder)))
