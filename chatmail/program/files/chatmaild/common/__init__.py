"""Code that several services share: settings, journal, systemd, atomic files, addresses, limits."""
