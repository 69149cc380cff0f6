"""How the toy base learns: the phases of its pretraining, and the heads that they throw away."""
