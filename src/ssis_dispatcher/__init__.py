"""SSIS-Dispatcher: one HTTP endpoint in front of every language model."""

__version__ = "0.1.0"
