"""What the pool tells about its work: figures by release, and OpenTelemetry."""
