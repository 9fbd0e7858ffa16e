"""The HTTP server: authentication, routes, limits."""
