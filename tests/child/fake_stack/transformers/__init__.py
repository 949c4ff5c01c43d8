"""Stands in for transformers, whose Trainer takes milliseconds here."""
