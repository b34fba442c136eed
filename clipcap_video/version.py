"""The version of the package; see CHANGELOG.md."""

__version__ = "0.1.0"
