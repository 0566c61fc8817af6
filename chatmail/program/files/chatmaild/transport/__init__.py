"""chatmail-transport: mail to other relays by HTTPS and SMTP, and mail from them at /mxdeliv."""
