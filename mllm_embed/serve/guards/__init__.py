"""What the guards know: which addresses of the internet may be reached, and what a request may be written like."""
