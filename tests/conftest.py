"""What all tests share: the figures that the tests of the promises tell, and folders for other users."""

from fixtures.figures import figures, pytest_terminal_summary
from fixtures.places import open_path

__all__ = ["figures", "open_path", "pytest_terminal_summary"]
