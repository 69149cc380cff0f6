"""The parts of `scripts/bench_gpu.py`: models of random weights, what is measured on them, and who watches over it."""
