"""Requests to the aggregator: transport, discovery, downloads."""
