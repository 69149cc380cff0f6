"""Forms of request and answer that clients of other embedding services speak, one module a dialect."""
