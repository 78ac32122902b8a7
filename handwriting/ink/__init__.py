"""Ink: its files, its measures, and its pictures. Nothing here needs a network."""
