"""What is encoded of a suite, in one list for all of its tasks and rows; and suites of several vectors an input."""
