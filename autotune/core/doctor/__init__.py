"""Judges whether a machine is fit to train: plain facts in, findings out."""
