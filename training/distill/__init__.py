"""Targets that are encoded once: the static bank of a stage, and a teacher's vectors for a small student.

Both keep what they encoded on disk.
"""
