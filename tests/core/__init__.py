"""Tests of the pure part: plain values in, plain values out."""
