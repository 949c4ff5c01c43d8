"""Ladders as data: rows of attempts, and the steps they are answered with."""
