"""Whole trainings, started as autotune starts them."""
