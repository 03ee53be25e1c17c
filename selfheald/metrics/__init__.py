"""What a daemon tells over HTTP: figures for Prometheus, whether it is at work, and a page for people. Read only."""
