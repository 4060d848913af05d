"""The figures of docs/understand/results.md, and the network namespaces that `make test-net` shares."""
