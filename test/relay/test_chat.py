"""Two real Delta Chat clients talk through the relay."""

from support.delta_chat import core, online_account, talk


def test_two_accounts_join_each_other_and_exchange_texts_and_a_large_file(relay, tmp_path):
    with core(tmp_path) as chat:
        talk(*(online_account(chat, relay, name) for name in ("Alice", "Bob")), tmp_path)
