"""``python -m selfheald``."""

from selfheald.cli import main

if __name__ == "__main__":
    main()
