"""Trains until somebody presses Ctrl-C; says `ready` once it can be pressed."""

import signal

print("ready", flush=True)
while True:
    signal.pause()
