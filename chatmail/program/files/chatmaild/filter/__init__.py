"""chatmail-filter: the milters that check and sign messages, and their rules."""
