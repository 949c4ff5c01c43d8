"""Whole runs with real children, from the command line to the known-good."""
