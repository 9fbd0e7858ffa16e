"""The district's view in a browser: pages made by the server, no scripts; `routes` is the way in."""
