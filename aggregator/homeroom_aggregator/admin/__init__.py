"""An officer's work on an aggregator's folder: configuration, invitations, backups, upgrades."""
