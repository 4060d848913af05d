"""The figures of docs/understand/results.md, and the bed of network namespaces that the tests of `make test-net` share."""
