"""Models and adapters in forms that are not opened, pickled or under names of other code, written as stock folders."""
