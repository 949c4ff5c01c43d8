"""One file is one change to a plan; this folder is the registry."""
