"""The figures of docs/benchmarks.md, and the bed of network namespaces that the tests of `make test-net` share."""
