"""What the embedded toy is made of: its scenes of sprites, what is said about them, and small base models.

The scripts beside this folder launch it; nothing in the library knows of it.
"""
