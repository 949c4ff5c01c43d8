"""What runs inside the training's own Python."""
