"""What makes up a relay on its machine."""
