"""chatmail-transport: sends mail to other relays, and receives mail at /mxdeliv."""
