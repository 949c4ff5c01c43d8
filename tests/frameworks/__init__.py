"""What each framework makes of a job, and what of it it refuses."""
