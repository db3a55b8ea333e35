"""TCP mode: connections that are routed by the port they came in at, or by the name a TLS client asks for."""
