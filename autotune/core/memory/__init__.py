"""Predicts the bytes and the time that a plan takes, before it is launched."""
