"""What is judged of a machine, from plain facts."""
