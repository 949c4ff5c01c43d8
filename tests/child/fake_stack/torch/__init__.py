"""Stands in for torch where only its being imported matters."""
