"""Tests of what predicts memory and time."""
