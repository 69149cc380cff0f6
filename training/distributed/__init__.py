"""Large batches on small devices and over several processes: gathering, gradient caching, ZeRO, memory.

Gradients equal those of one process with the whole batch at once.
"""
