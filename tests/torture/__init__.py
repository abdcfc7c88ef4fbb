"""Commands that are killed at random moments: nothing half-written, no left-over after the next run."""
