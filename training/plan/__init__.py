"""What a recipe takes, told before anything is loaded: memory, tokens, steps.

Shapes come from config files, never from weights.
"""
