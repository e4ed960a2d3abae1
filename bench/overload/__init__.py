"""Overload and lifecycle: that no call is refused, cut or lost by the pool's own doing, on real servers."""
