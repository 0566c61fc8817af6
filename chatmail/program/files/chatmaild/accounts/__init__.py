"""chatmail-accounts: makes addresses; mailboxes, invitations and what an operator does to them."""
