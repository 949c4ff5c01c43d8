"""Tests of the verbs, called as plain functions."""
