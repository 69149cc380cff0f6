"""The keys of a stage by subject: its rows, its loss, its batches, its optimiser, its validation."""
