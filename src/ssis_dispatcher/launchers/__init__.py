"""Launchers start, stop and watch servers on one platform each, and do not know each other."""
