"""chatmail-filter: the milters that check and sign every message, and their rules."""
