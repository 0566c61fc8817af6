"""chatmail-accounts: creates addresses, keeps invitations, and does what operators ask for."""
