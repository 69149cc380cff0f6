"""What the front door has beside `encode`: the two sides of a search by name, several vectors an input, words."""
