"""What a run's folder holds: names, readers, parts, sessions, provenance and status."""
