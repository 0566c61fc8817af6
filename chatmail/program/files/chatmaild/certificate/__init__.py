"""The relay's certificate: its content, its installation, and its sources."""
