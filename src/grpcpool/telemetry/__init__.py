"""Where events go: the standard log here, other systems as extras."""
