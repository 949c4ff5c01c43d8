"""Tests of the contacts with the world, made with real files and real children."""
