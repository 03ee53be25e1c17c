"""What all tests share: the figures that the tests of the promises tell."""

from fixtures.figures import figures, pytest_terminal_summary

__all__ = ["figures", "pytest_terminal_summary"]
