"""autotune: supervises training until it runs stably, and says why at every step."""
