"""DNS: the records that this relay needs, what the world sees of them, and their publication."""
