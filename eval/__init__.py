"""Benchmarks, exact ranking, metrics and reports for embedders of `mllm_embed`."""
