"""autotune: supervises training until it runs stably, and says why at every step."""

__version__ = "0.1.0"
