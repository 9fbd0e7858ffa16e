"""From samples to theta."""
