"""Engines: one file per kind of inference server, data and pure mappings, unaware of each other."""
