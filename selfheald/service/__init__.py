"""selfheald as a service of systemd or launchd: what its file says, and installing it."""
