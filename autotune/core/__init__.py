"""What autotune knows and decides, without touching the world."""
