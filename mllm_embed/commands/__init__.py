"""The commands of `mllm-embed`, one a file."""
