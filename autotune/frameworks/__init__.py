"""One file per training tool: its settings in, its progress and checkpoints out."""
