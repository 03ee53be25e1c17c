"""The service as administrators install it, under a systemd of its own."""
