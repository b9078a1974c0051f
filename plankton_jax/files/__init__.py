"""Reads and writes the files that are the project's own."""
