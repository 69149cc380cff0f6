"""From what waits to batches: whose inputs are next (`turns`), how they are computed (`computing`), and why one is not
(`reasons`)."""
