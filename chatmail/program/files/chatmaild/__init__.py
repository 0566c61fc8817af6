"""The services of a chatmail relay, and what Salt and timers do with them: see each subpackage."""
