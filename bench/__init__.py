"""The benches behind docs/understand/results.md, and the network testbed that `make test-net` shares."""
