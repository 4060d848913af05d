"""The JSON that the endpoint speaks, its query parameters, and policy bodies: pure structures without a server."""
