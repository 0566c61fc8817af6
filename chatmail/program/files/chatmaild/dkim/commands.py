"""The commands of the Salt module chatmail_dkim about the keys on this machine."""

from chatmaild.common.commands import answer
from chatmaild.dkim import key_files, key_records, signing_state


def probe(settings: dict, txt: dict[str, list[str]]) -> dict[str, str]:
    """Sign a message with each key that signs now, and verify the signatures."""
    from chatmaild.dkim import probing  # Loading it takes time: it loads dnspython.

    return probing.probe(settings, txt)


# Each command gets the settings. A command that needs only the files of the keys does not use them.
COMMANDS = {
    "new_selector": lambda _settings, algorithm: key_files.choose_selector(algorithm),
    "generate": lambda _settings, **key: key_files.generate(**key),
    "protect": lambda _settings, selector: key_files.protect(selector),
    "list": lambda _settings: signing_state.list_keys(),
    "sign_with": lambda _settings, selectors: signing_state.sign_with(selectors),
    "txt": key_records.describe_record,
    "records": key_records.list_records,
    "withdrawn": key_records.list_withdrawn,
    "probe": probe,
}

if __name__ == "__main__":
    answer(COMMANDS)
