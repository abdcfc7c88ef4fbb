"""Trained networks: loading them with their configuration, exporting them, and the shipped weights."""
