"""The keys of a stage by subject: its rows, its loss, its batches, its optimiser; and its sections, the
validation, a guide and the mining while it trains."""
