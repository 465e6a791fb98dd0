"""What a run's folder holds: names, reader, parts, logs, sessions, provenance and status."""
