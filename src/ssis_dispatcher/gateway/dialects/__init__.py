"""Dialects: wire formats of requests and replies. Pure, and unaware of each other."""
