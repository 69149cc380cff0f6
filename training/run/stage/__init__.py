"""What runs of every kind of stage share: the trainer without its loss, and how a stage is run."""
