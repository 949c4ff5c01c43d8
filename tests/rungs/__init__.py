"""What every rung promises, and what only one of them does."""
