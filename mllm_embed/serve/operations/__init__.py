"""The service as those who run it see it: how it starts and stops, is watched, and what it writes down."""
