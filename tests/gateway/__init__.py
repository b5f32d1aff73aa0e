"""What tests and benchmarks of the gateway stand on: a fake AWS, a running proxy, and clients in their own places."""
