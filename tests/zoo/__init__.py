"""Tiny programs that each die one way for real."""
