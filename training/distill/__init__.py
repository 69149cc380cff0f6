"""What is made once, before a stage: its static bank, a teacher's and a guide's vectors, and what is right for whom.

All of it is kept on disk, for a run that goes on.
"""
