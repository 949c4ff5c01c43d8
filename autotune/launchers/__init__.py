"""One file is one way to start ranks."""
